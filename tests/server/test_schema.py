"""Schemathesis makes up requests from the server's own OpenAPI description, right ones and wrong ones."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from maxent_ts.engines.hf import HFEngine
from tests.server.conftest import application, serving
from tests.unit.hf_helpers import tiny_model, tiny_tokenizer


def make_app():
    engine = HFEngine(tiny_model(), tiny_tokenizer())
    return application(engine, ["logprob", "format"], max_tokens_per_request=200, max_new_tokens=8)


@pytest.fixture(scope="module")
def url():
    with serving(make_app()) as url:
        yield url


schema = schemathesis.openapi.from_dict(make_app().openapi())
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance, unsupported_method]


@schema.parametrize()
@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_whatever_is_asked_the_answer_is_one_that_the_description_has(case, url):
    """Catches inputs that break the server, and answers that are not what /openapi.json says."""
    case.call_and_validate(base_url=url, checks=CHECKS)
