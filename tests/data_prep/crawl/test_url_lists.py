"""Lists of URLs as users bring them: every kind reads the same, and what is wrong is said in one sentence."""

import gzip
import json

import pytest

from fastlt.data_prep.crawl.url_lists import BATCH, ListedUrl, read_url_list

pytestmark = pytest.mark.medium

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ROWS = [
    {"url": "https://a.example/1.jpg", "label": "black kite", "license": "CC BY 4.0", "creator": "Ann", "page": "p"},
    {"url": "", "label": "black kite", "license": "", "creator": "", "page": ""},
    {"url": "ftp://a.example/2.jpg", "label": "red kite", "license": "", "creator": "", "page": ""},
    {"url": "http://b.example/3?x=1,2", "label": "red kite", "license": "mine", "creator": 'B\n"b"', "page": ""},
]
READ = [
    ListedUrl("https://a.example/1.jpg", "black kite", "cc-by-4.0", "Ann", "p"),
    ListedUrl("http://b.example/3?x=1,2", "red kite", "mine", 'B "b"', ""),
]


def rows(path, *columns):
    return [row for batch in read_url_list(path, *columns) for row in batch]


def refusal(path, *columns) -> str:
    with pytest.raises(ValueError) as refused:
        rows(path, *columns)
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def separated(records, separator):
    def quoted(value):
        return '"' + value.replace('"', '""') + '"'

    lines = [list(records[0]), *(list(record.values()) for record in records)]
    return "".join(separator.join(map(quoted, line)) + "\r\n" for line in lines)


def write(path, records):
    """In the format that the name says."""
    kind = path.name.partition(".")[2]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
        return
    if kind.startswith(("jsonl", "ndjson")):
        text = "".join(json.dumps(record) + "\n\n" for record in records)
    else:
        text = separated(records, "\t" if kind.startswith("tsv") else ",")
    (gzip.open if kind.endswith("gz") else open)(path, "wb").write(text.encode())


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "ndjson", "parquet", "csv.gz", "tsv.gz", "jsonl.gz"])
def test_every_kind_reads_the_same(tmp_path, kind):
    write(tmp_path / f"list.{kind}", ROWS)
    urls = read_url_list(tmp_path / f"list.{kind}")
    for _ in range(2):  # as often as one likes
        assert [row for batch in urls for row in batch] == READ
        assert urls.skipped == 2


def test_plain_text(tmp_path):
    (tmp_path / "list.txt").write_text("\ufeffhttps://a.example/1.jpg\r\n\n  http://b.example/2 \nnothing\nhttps://[\n")
    urls = read_url_list(tmp_path / "list.txt")
    assert list(urls) == [[ListedUrl("https://a.example/1.jpg"), ListedUrl("http://b.example/2")]]
    assert urls.skipped == 2


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_columns(tmp_path, kind):
    path = tmp_path / f"list.{kind}"
    write(path, [{"URL": "https://a.example/1", "TEXT": "caption", "where": "https://a.example/2", "7": "seven"}])
    assert rows(path) == [ListedUrl("https://a.example/1")]
    assert rows(path, "where", "7") == [ListedUrl("https://a.example/2", "seven")]
    sentence = refusal(path, "link")
    assert "list." in sentence
    assert "has no column 'link', only URL, TEXT, where, 7." in sentence
    assert "has no column 'species', only URL, TEXT, where, 7." in refusal(path, None, "species")
    write(path, [{"link": "https://a.example/1", "caption": "c"}])
    assert "has no column 'url', only link, caption: say which one with --url-column." in refusal(path)


@pytest.mark.parametrize("column", ["label", "class", "category", "Class"])
def test_usual_label_columns(tmp_path, column):
    write(tmp_path / "list.csv", [{"url": "https://a.example/1", "caption": "no", column: "kite"}])
    assert rows(tmp_path / "list.csv") == [ListedUrl("https://a.example/1", "kite")]


def test_labels_that_are_numbers(tmp_path):
    urls = ["https://a.example/1", "https://a.example/2"]
    pq.write_table(pa.table({"url": urls, "label": pa.array([7, None])}), tmp_path / "list.parquet")
    assert [row.label for row in rows(tmp_path / "list.parquet")] == ["7", ""]
    pq.write_table(pa.table({"url": urls, "label": pa.array([0.5, float("nan")])}), tmp_path / "list.parquet")
    assert [row.label for row in rows(tmp_path / "list.parquet")] == ["0.5", ""]


def test_output_of_img2dataset(tmp_path):
    """Its parquet files are the list; its shards, statistics and captions are none."""
    for shard, (status, error) in enumerate([("success", None), ("failed_to_download", "HTTP Error 404: Not Found")]):
        record = {"url": f"https://a.example/{shard}", "caption": "a kite", "class": "kite", "key": f"{shard:05}0000"}
        write(tmp_path / f"{shard:05}.parquet", [record | {"status": status, "error_message": error, "width": 256}])
        (tmp_path / f"{shard:05}.tar").write_bytes(b"")
        (tmp_path / f"{shard:05}_stats.json").write_text("{}")
    (tmp_path / "00002").mkdir()
    (tmp_path / "00002" / "000020000.txt").write_text("a kite")
    assert rows(tmp_path) == [ListedUrl("https://a.example/0", "kite"), ListedUrl("https://a.example/1", "kite")]


def test_folder_of_several_kinds(tmp_path):
    write(tmp_path / "a.csv", ROWS)
    (tmp_path / "b.txt").write_text("https://c.example/4\n")
    (tmp_path / "c.md").write_text("https://c.example/5\n")
    urls = read_url_list(tmp_path)
    assert list(urls) == [[*READ, ListedUrl("https://c.example/4")]]
    assert urls.skipped == 2


def test_what_is_no_list(tmp_path):
    assert "there is no list of URLs at" in refusal(tmp_path / "missing.csv")
    assert "has no list of URLs in it" in refusal(tmp_path)
    (tmp_path / "list.xlsx").write_bytes(b"")
    assert "its name must end with .csv, .jsonl, .ndjson, .parquet, .tsv, .txt." in refusal(tmp_path / "list.xlsx")


@pytest.mark.parametrize("text", ["", "url\n", "\n"])
def test_empty_lists(tmp_path, text):
    (tmp_path / "list.csv").write_text(text)
    assert refusal(tmp_path / "list.csv").endswith("list.csv has no URL of an image (http or https) in it.")


def test_lists_of_something_else(tmp_path):
    (tmp_path / "list.txt").write_text("\nblack kite\nred kite\n")
    assert refusal(tmp_path / "list.txt").endswith("in it; line 2 of list.txt has 'black kite'.")


def test_broken_files(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 or not")
    assert "a.parquet cannot be read" in refusal(tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text('{"url": "https://a.example/1"}\n["https://a.example/2"]\n')
    assert "line 2 of" in refusal(tmp_path / "b.jsonl")
    write(tmp_path / "c.csv.gz", ROWS)
    whole = (tmp_path / "c.csv.gz").read_bytes()
    (tmp_path / "c.csv.gz").write_bytes(whole[: len(whole) // 2])
    assert "c.csv.gz cannot be read" in refusal(tmp_path / "c.csv.gz")
    (tmp_path / "c.csv.gz").write_bytes(whole[:20] + bytes(10) + whole[30:])
    assert "c.csv.gz cannot be read" in refusal(tmp_path / "c.csv.gz")
    (tmp_path / "d.csv").write_text('url\n"https://a.example/1\n' + "x" * 200_000)
    assert "d.csv cannot be read" in refusal(tmp_path / "d.csv")
    (tmp_path / "e.csv").write_bytes(b"url,creator\nhttps://a.example/1,Ren\xe9\n")
    assert rows(tmp_path / "e.csv") == [ListedUrl("https://a.example/1", attribution="Ren\ufffd")]


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_large_lists_are_read_piece_by_piece(tmp_path, kind):
    number = 25 * BATCH + 1
    path = tmp_path / f"list.{kind}"
    names = [f"https://a.example/{i:0200}.jpg" for i in range(number)]
    if kind == "parquet":  # in one row group, which is as bad as it gets
        pq.write_table(pa.table({"url": names}), path, row_group_size=number, use_dictionary=False, compression="none")
    else:
        path.write_text("url\n" + "\n".join(names))
    sizes = []
    before = pa.total_allocated_bytes()
    most = 0
    for batch in read_url_list(path):
        sizes.append(len(batch))
        most = max(most, pa.total_allocated_bytes() - before)
    assert sizes == [BATCH] * 25 + [1]
    assert most < number * 200 / 4
