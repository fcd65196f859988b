"""What whoever runs the server decides."""

from __future__ import annotations

from dataclasses import dataclass, field

from maxent_ts.errors import SettingError

__all__ = ["ServerSettings"]


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Limits of the server, and what a request gets where it leaves something out."""

    model_name: str
    """What requests call the model."""
    model_path: str | None = None
    """Where the model lies; error messages say its name in place of it."""
    num_rollouts: int = 10
    max_new_tokens: int = 50
    tilt: float = 1.0
    max_concurrent: int = 32
    """Searches under way at once."""
    max_queue: int = 256
    """Searches that may wait besides."""
    max_body_bytes: int = 1 << 20
    max_tokens_per_request: int = 20_000
    """Generated tokens that the searches of one request may take together, by their budgets."""
    request_timeout: float = 600.0
    """Seconds from a request's arrival to its answer, waiting included."""
    api_key: str | None = field(default=None, repr=False)
    """What clients must send as a bearer token; None for no key."""

    def __post_init__(self) -> None:
        for name in ("max_concurrent", "max_body_bytes", "max_tokens_per_request", "request_timeout"):
            if getattr(self, name) <= 0:
                raise SettingError(f"{name} must be above 0, but is {getattr(self, name)}.")
        if self.max_queue < 0:
            raise SettingError(f"max_queue must be at least 0, but is {self.max_queue}.")
        if self.max_new_tokens > self.max_tokens_per_request:
            raise SettingError(
                f"A request that names no length gets max_new_tokens={self.max_new_tokens}, which a request of at most "
                f"{self.max_tokens_per_request} generated tokens cannot have. Raise max_tokens_per_request or lower max_new_tokens."
            )
        if self.api_key == "":
            raise SettingError("The key that clients must send is empty. Give one, or none at all.")
