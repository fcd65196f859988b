"""How the pages are built: `make docs`. Nothing is fetched, and the built pages fetch nothing."""

import re
from pathlib import Path

import maxent_ts

project = "maxent-ts"
author = "the maxent-ts authors"
version = release = maxent_ts.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["misc.highlighting_failure"]  # listings in no language that pygments knows
exclude_patterns = ["*.part.md"]
html_theme = "furo"
html_title = "maxent-ts"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["site.css"]
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def keep_pages_that_exist(app, docname, source):
    """A line `?page` in a list of pages is that page if there is one, else nothing; `?*` is every page not named."""
    if docname != app.config.root_doc:
        return
    pages = sorted(path.stem for path in Path(app.srcdir).glob("*.md") if not path.match("*.part.md"))
    named = set(re.findall(r"^\??([\w-]+)$", source[0], flags=re.MULTILINE)) | {docname}
    unnamed = "".join(f"{page}\n" for page in pages if page not in named)
    text = re.sub(r"^\?\*\n", unnamed, source[0], flags=re.MULTILINE)
    source[0] = re.sub(r"^\?(\S+)\n", lambda match: f"{match[1]}\n" if match[1] in pages else "", text, flags=re.MULTILINE)


def plain_docstring(app, what, name, obj, options, lines):
    """Docstrings are plain text with `names` in backticks and indented listings: say that in reStructuredText."""
    pieces = re.split(r"`([^`]+)`", "\n".join(lines))
    for index, piece in enumerate(pieces):
        if index % 2 == 0:
            pieces[index] = re.sub(r"([*|\\]|_(?!\w))", r"\\\1", piece)
        else:
            ends_in_word = pieces[index + 1][:1].isalnum()
            pieces[index] = f"``{' '.join(piece.split())}``" + ("\\ " if ends_in_word else "")
    found, in_section, listing = [], False, False
    for line in "".join(pieces).split("\n"):
        if line and not line[0].isspace():
            in_section = line.rstrip() in SECTIONS
            listing = False
        elif line.startswith("    ") and not in_section and not listing and found and not found[-1]:
            found += ["::", ""]
            listing = True
        found.append(line.replace("\\", "") if line.startswith("    ") and not in_section else line)
    if what in ("attribute", "data", "property"):
        found.insert(0, "")  # else napoleon takes what stands before a colon for a type
    lines[:] = found


SECTIONS = {"Args:", "Returns:", "Yields:", "Raises:", "Example:"}


def setup(app):
    """Connect the above; docstrings before napoleon reads their sections."""
    app.connect("source-read", keep_pages_that_exist)
    app.connect("autodoc-process-docstring", plain_docstring, priority=400)
