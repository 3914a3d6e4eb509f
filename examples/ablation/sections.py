"""Split the quickstart's documents by the section of its site that they come from: one Parquet file for each.

python examples/ablation/sections.py runs/quickstart/build runs/ablation/sections
"""

import sys
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SECTIONS = ("packages", "projects", "standard")


def main(build: Path, output: Path) -> None:
    """Write output/SECTION/documents.parquet."""
    documents = pq.read_table(build / "documents", columns=["id", "url", "text", "language"])
    sections = pa.array([urlsplit(url).path.split("/")[1] for url in documents["url"].to_pylist()])
    for name in SECTIONS:
        found = documents.filter(pc.equal(sections, name))
        (output / name).mkdir(parents=True, exist_ok=True)
        pq.write_table(found, output / name / "documents.parquet")
        print(f"{name}: {found.num_rows:,} documents")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
