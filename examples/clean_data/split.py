"""Split what a build read into what it kept and what it rejected, as two sources.

    python examples/clean_data/split.py runs/quickstart/build runs/clean_data/sources

Every tenth of the kept documents makes the clean source, so that there is about twice as much of what was rejected.
Copies are left out on either side: a near copy of a held-out page would teach what is asked.
"""

import sys
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

COLUMNS = ["id", "url", "text", "language"]
EVERY = 10


def main(build: Path, output: Path) -> None:
    """Write output/clean and output/rejected."""
    rejects = ds.dataset(build / "rejects").to_table(columns=["id", "reason"])
    copies = pc.starts_with(rejects["reason"], "dedup:")
    judged = rejects.filter(pc.invert(copies))["id"]
    measured = ds.dataset(build / "measured").to_table(columns=COLUMNS)
    tables = {
        "clean": ds.dataset(build / "documents").to_table(columns=COLUMNS).sort_by("id")[::EVERY],
        "rejected": measured.filter(pc.is_in(measured["id"], value_set=judged.combine_chunks())),
    }
    for name, table in tables.items():
        (output / name).mkdir(parents=True, exist_ok=True)
        pq.write_table(table, output / name / "documents.parquet")
        characters = pc.sum(pc.utf8_length(table["text"])).as_py()
        print(f"{name}: {table.num_rows:,} documents, {characters:,} characters")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
