"""Generated corpora: documents with planted copies, as records on disk and as narrow rows in memory."""

import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

_BEGINNINGS = [consonant + vowel for consonant in "bklmnprstwzf" for vowel in "ai"]
_ENDS = ("ran", "del", "tis", "mon", "gar", "vel", "kor")
WORDS = [beginning + end for beginning in _BEGINNINGS for end in _ENDS]


def document(rng, words=120):
    """Sentences of invented words: no two documents share shingles by accident."""
    out = []
    while len(out) < words:
        sentence = [rng.choice(WORDS) + rng.choice(WORDS) for _ in range(rng.randint(6, 14))]
        out += [sentence[0].capitalize(), *sentence[1:-1], sentence[-1] + "."]
    return " ".join(out)


def edited(rng, text, share):
    """A copy with a share of its words replaced."""
    words = text.split(" ")
    for place in rng.sample(range(len(words)), int(len(words) * share)):
        words[place] = rng.choice(WORDS) + rng.choice("xyz")
    return " ".join(words)


def texts(seed, originals=60):
    """Texts with exact copies, near copies, chains of ever further copies, one template many share, and empty ones."""
    rng = random.Random(seed)
    out = []
    for number in range(originals):
        text = document(rng)
        out.append(text)
        if number % 5 == 0:
            out.append(text)
        if number % 4 == 0:
            out += [edited(rng, text, share) for share in (0.005, 0.02, 0.04, 0.08)]
        if number % 10 == 0:
            for _ in range(6):
                text = edited(rng, text, 0.015)
                out.append(text)
    template = document(rng, 300)
    out += [template + " " + document(rng, 8) for _ in range(90)]
    out += ["", "one", "one", "two words"]
    rng.shuffle(out)
    return out


def rows_of(texts):
    """Each text with its own url and date: what makes its id."""
    return [
        {"text": text, "url": f"https://example.org/{number}", "date": f"2026-01-{number % 28 + 1:02d}"}
        for number, text in enumerate(texts)
    ]


def write_jsonl(path, rows):
    """One line for each row."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_parquet(path, rows, group=50):
    """The same as Parquet, `group` rows in a row group."""
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)


def strings(values):
    """Bytes as a column of strings, UTF-8 or not."""
    return pa.Array.from_buffers(pa.string(), len(values), pa.array(values, pa.binary()).buffers())


def page(body, title="A page"):
    """A page with navigation and footer around paragraphs."""
    paragraphs = "".join(f"<p>{part}</p>" for part in body.split("\n"))
    return (
        f"<!doctype html><html><head><title>{title}</title></head><body><nav><a href='/'>Home</a></nav>"
        f"<article><h1>{title}</h1>{paragraphs}</article><footer>All rights reserved</footer></body></html>"
    )


def warc(pages, gzip=True):
    """The bytes of a WARC file. pages: (url, status, headers, payload bytes)."""
    buffer = io.BytesIO()
    writer = WARCWriter(buffer, gzip=gzip)
    for url, status, headers, payload in pages:
        http = StatusAndHeaders(status, headers, protocol="HTTP/1.1")
        date = {"WARC-Date": "2026-02-03T04:05:06Z"}
        writer.write_record(
            writer.create_warc_record(
                url, "response", payload=io.BytesIO(payload), http_headers=http, warc_headers_dict=date
            )
        )
    return buffer.getvalue()


def members(content):
    """Offsets of the gzip members of a WARC."""
    import zlib

    offsets, position = [], 0
    while position < len(content):
        offsets.append(position)
        inflate = zlib.decompressobj(wbits=31)
        inflate.decompress(content[position:])
        position = len(content) - len(inflate.unused_data)
    return offsets


def read_all(folder):
    """Every row of a folder of Parquet files."""
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
