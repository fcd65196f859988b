"""OpenTSLM's human activity recognition and M4 captioning (Langer et al., arXiv 2510.02410): files, labels and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from maxent_ts.caption_metrics import caption_measures, overlap_measures, require_overlap
from maxent_ts.errors import DataError
from maxent_ts.tasks.answers import stated_answer
from maxent_ts.tasks.base import Example
from maxent_ts.tasks.excerpts import excerpt_folder
from maxent_ts.tasks.files import Row, data_file, parse_series, read_rows, with_place
from maxent_ts.tasks.prompts import har_prompt, m4_prompt
from maxent_ts.tasks.subset import stratified_subset, upstream_test_split
from maxent_ts.tasks.upstream import HarScorer

__all__ = ["HAR_LABELS", "HarCot", "M4Caption", "har_prompt", "m4_prompt"]

HAR_LABELS = ("biking", "lying", "running", "sitting", "standing", "walking", "walking_down", "walking_up")
"""OpenTSLM's eight activities. UCI HAR, and so the embedded sample, has neither biking nor running."""

HAR_AXES = ("x_axis", "y_axis", "z_axis")

CONTENTS = "OpenTSLM's data files"
"""What a data directory holds, for messages."""

M4_FREQUENCIES = ("Daily", "Hourly", "Monthly", "Quarterly", "Weekly", "Yearly")
"""In the order in which OpenTSLM concatenates them, on which its random split depends."""
M4_FOLDERS = ("M4TimeSeriesCaptionDataset", "M4TimeSeriesCaptionDataset")
"""Where OpenTSLM unpacks the M4 captions below `data/`."""

HAR_SAMPLING_RATE = 50.0
"""Points per second of every HAR-CoT window."""


class HarCot:
    """Which activity do three axes of acceleration show? OpenTSLM's stage 3 (arXiv 2510.02410).

    Reads `har_cot_test_cot.csv`: `x_axis`, `y_axis`, `z_axis` (lists, m/s², 50 Hz), `label` and, where it is, `rationale`, for the
    upstream scorer. Other columns are not looked at. The target is the label; the stratum too.
    """

    name = "har_cot"
    labels = HAR_LABELS
    rewards: Mapping[str, float] = {"claims": 0.5, "format": 0.5}
    upstream = HarScorer(HAR_LABELS)

    def examples(self, *, data_dir: Path | None = None, limit: int | None = None, seed: int = 0) -> Sequence[Example]:
        """Load test windows. See `maxent_ts.tasks.base.Task.examples`.

        Ids are "har_cot/0", "har_cot/1", …: the position in the file, header rows left out.

        Raises:
            DataError: if the file is missing, or a label or series in it cannot be used.
        """
        path = data_file(excerpt_folder(data_dir, "har", CONTENTS), "har_cot", "har_cot_test_cot.csv")
        hint = "Point the data directory at the folder that holds OpenTSLM's HAR-CoT files."
        rows = list(read_rows(path, (*HAR_AXES, "label"), hint, optional=("rationale",)))
        labels = [self._label(path, row) for row in rows]
        return [self._example(path, rows[index], labels[index]) for index in stratified_subset(labels, limit, seed)]

    def answer(self, text: str) -> str | None:
        """Return the label behind the last "Answer:", None if it is not one of the labels.

        Unlike OpenTSLM's parser it treats a full stop, case, quotes and special tokens alike for answer and target, and takes
        a text without "Answer:" as no answer rather than as one long answer.
        """
        label = stated_answer(text)
        return label if label in self.labels else None

    def _label(self, path: Path, row: Row) -> str:
        number, cells = row
        label = cells["label"].strip().lower()
        if label not in self.labels:
            raise DataError(
                f"Expected one of {', '.join(self.labels)} in {path}, row {number}, column 'label', but found '{cells['label']}'."
            )
        return label

    def _example(self, path: Path, row: Row, label: str) -> Example:
        number, cells = row
        series = [parse_series(cells[axis], path, number, axis) for axis in HAR_AXES]
        if len({len(values) for values in series}) > 1:
            raise DataError(
                f"Expected three axes of equal length in {path}, row {number}, but x_axis, y_axis and z_axis have "
                f"{', '.join(str(len(values)) for values in series)} points."
            )
        inputs = {
            "series": series,
            "series_names": list(HAR_AXES),
            "sampling_rate": HAR_SAMPLING_RATE,
            "labels": self.labels,
            "task": self.name,
        }
        prompt = with_place(path, number, har_prompt, *series)
        return Example(
            id=f"{self.name}/{number - 1}",
            prompt=prompt,
            inputs=inputs,
            target=label,
            stratum=label,
            reference=cells["rationale"] or None,
        )


class M4Caption:
    """Describe a series in words. OpenTSLM's stage 2 (arXiv 2510.02410), for which no metric was ever published; see `measures`.

    Reads `m4_series_{frequency}.csv` (`id`, `series`) for every frequency present and, where they are, the captions in
    `m4_captions_{frequency}.csv` (`id`, `caption`). With captions the examples are OpenTSLM's test split, which it draws anew
    from all frequencies with seed 42: the same rows if the same files are present. Without captions (as in the embedded sample)
    every series is an example. The target is the caption or None; free text has no accuracy. The stratum is the frequency.
    """

    name = "m4_caption"
    labels: tuple[str, ...] = ()
    rewards: Mapping[str, float] = {"claims": 0.5, "format": 0.5}

    def examples(self, *, data_dir: Path | None = None, limit: int | None = None, seed: int = 0) -> Sequence[Example]:
        """Load test series. See `maxent_ts.tasks.base.Task.examples`.

        Ids are "m4_caption/{frequency}/{id}"; where an id comes twice, the later ones end in "#1", "#2", ….

        Raises:
            DataError: if there is no file, only some have captions, or a series in them cannot be used.
            MissingExtraError: if there are captions, and what compares with them is not installed.
        """
        folder = data_file(excerpt_folder(data_dir, "m4", CONTENTS), *M4_FOLDERS, ".")
        rows = _m4_rows(folder)
        if any(caption is not None for *_, caption in rows):
            require_overlap()
            rows = [rows[index] for index in upstream_test_split(len(rows))]
        chosen = stratified_subset([frequency for frequency, *_ in rows], limit, seed)
        seen: dict[str, int] = {}
        names = []
        for frequency, (_, cells), _ in rows:
            name = f"{self.name}/{frequency}/{cells['id'].strip()}"
            seen[name] = seen.get(name, -1) + 1
            names.append(f"{name}#{seen[name]}" if seen[name] else name)
        return [self._example(folder, names[index], *rows[index]) for index in chosen]

    def answer(self, text: str) -> str | None:  # noqa: ARG002
        """Return None: a caption states no label."""
        return None

    def measures(self, example: Example, text: str, texts: Sequence[str], weights: Sequence[float]) -> dict[str, float | None]:  # noqa: ARG002
        """Judge the returned caption: `caption_metrics.caption_measures`, and likeness to the gold one where there is one."""
        legacy = {} if example.target is None else overlap_measures(text, example.target)
        return {**caption_measures(text, example.inputs["series"][0]), **legacy}

    def _example(self, folder: Path, name: str, frequency: str, row: Row, caption: str | None) -> Example:
        number, cells = row
        path = folder / f"m4_series_{frequency}.csv"
        series = parse_series(cells["series"], path, number, "series")
        inputs = {"series": [series], "series_names": ["series"], "labels": self.labels, "task": self.name}
        return Example(
            id=name, prompt=with_place(path, number, m4_prompt, series), inputs=inputs, target=caption, stratum=frequency
        )


def _m4_rows(folder: Path) -> list[tuple[str, Row, str | None]]:
    """Return (frequency, row, caption or None), in OpenTSLM's order: series that have captions, once for each caption."""
    present = [name for name in M4_FREQUENCIES if (folder / f"m4_series_{name}.csv").is_file()]
    captioned = [name for name in present if (folder / f"m4_captions_{name}.csv").is_file()]
    if not present:
        raise DataError(f"Expected at least one of m4_series_{{{','.join(M4_FREQUENCIES)}}}.csv in {folder}, but there is none.")
    if captioned and captioned != present:
        missing = next(name for name in present if name not in captioned)
        raise DataError(
            f"Expected {folder / f'm4_captions_{missing}.csv'}, since other frequencies have captions, but it is not there. "
            "Add it, or take m4_series_" + missing + ".csv out of the folder."
        )
    rows: list[tuple[str, Row, str | None]] = []
    for frequency in present:
        captions: dict[str, list[str]] = {}
        if captioned:
            for _, cells in read_rows(folder / f"m4_captions_{frequency}.csv", ("id", "caption")):
                captions.setdefault(cells["id"].strip(), []).append(cells["caption"])
        matched = len(rows)
        for row in read_rows(folder / f"m4_series_{frequency}.csv", ("id", "series")):
            of_this = captions.get(row[1]["id"].strip(), []) if captioned else [None]
            rows.extend((frequency, row, caption) for caption in of_this)
        if matched == len(rows):
            raise DataError(f"Expected common ids in the series and captions of {frequency} in {folder}, but there are none.")
    return rows
