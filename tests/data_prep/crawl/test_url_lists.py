"""Lists of URLs as users bring them: every kind reads the same, and what is wrong is said in one sentence."""

import bz2
import gzip
import json
import lzma
import os
import tracemalloc
from dataclasses import astuple
from decimal import Decimal
from urllib.parse import unquote

import pytest

from fastlt.data_prep.crawl.lists.columns import Asked
from fastlt.data_prep.crawl.lists.urls import BATCH, ListedUrl, UrlList
from support.paths import SHARED

pytestmark = pytest.mark.medium

CASES = SHARED / "cases" / "lists"
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
    return [row for batch in UrlList(path, Asked(*columns)) for row in batch]


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
    urls = UrlList(tmp_path / f"list.{kind}")
    for _ in range(2):  # as often as one likes
        assert [row for batch in urls for row in batch] == READ
        assert urls.left_out.total() == 2


def test_plain_text(tmp_path):
    (tmp_path / "list.txt").write_text("\ufeffhttps://a.example/1.jpg\r\n\n  http://b.example/2 \nnothing\nhttps://[\n")
    urls = UrlList(tmp_path / "list.txt")
    assert list(urls) == [[ListedUrl("https://a.example/1.jpg"), ListedUrl("http://b.example/2")]]
    assert urls.left_out.total() == 2


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_columns(tmp_path, kind):
    path = tmp_path / f"list.{kind}"
    write(path, [{"URL": "https://a.example/1", "TEXT": "caption", "where": "https://a.example/2", "7": "seven"}])
    assert rows(path) == [ListedUrl("https://a.example/1")]
    assert rows(path, "where", "7") == [ListedUrl("https://a.example/2", "seven", page="https://a.example/1")]
    sentence = refusal(path, "link")
    assert "list." in sentence
    assert "has no column 'link' for --url-column, only URL, TEXT, where, 7." in sentence
    assert "has no column 'species' for --label-column, only URL, TEXT, where, 7." in refusal(path, None, "species")
    write(path, [{"page": "kite", "caption": "c"}])
    assert "has no column of image URLs, only page, caption: say which one with --url-column." in refusal(path)


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
    urls = UrlList(tmp_path)
    assert list(urls) == [[*READ, ListedUrl("https://c.example/4")]]
    assert urls.left_out.total() == 2


def test_what_is_no_list(tmp_path):
    assert "there is no list of URLs at" in refusal(tmp_path / "missing.csv")
    assert "has no list of URLs in it" in refusal(tmp_path)
    (tmp_path / "list.xlsx").write_bytes(b"")
    assert "has no URL of an image" in refusal(tmp_path / "list.xlsx")
    for start, what in (
        (b"PK\x03\x04", "save the list in it as CSV"),
        (b"\xff\xd8\xff\xe0", "an image"),
        (b"\n<!DOCTYPE html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"url\n\0\0\0\1", "it is not text"),
    ):
        (tmp_path / "list.csv").write_bytes(start + bytes(9))
        assert what in refusal(tmp_path / "list.csv")


@pytest.mark.parametrize("text", ["", "url\n", "\n"])
def test_empty_lists(tmp_path, text):
    (tmp_path / "list.csv").write_text(text)
    assert refusal(tmp_path / "list.csv").endswith("list.csv has no URL of an image (http or https) in it.")


def test_lists_of_something_else(tmp_path):
    (tmp_path / "list.txt").write_text("\nblack kite\nred kite\n")
    assert refusal(tmp_path / "list.txt").endswith(
        "in it; left out: 2 rows with something that is no URL (line 2 of list.txt: 'black kite')."
    )


def test_broken_files(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 or not")
    assert "a.parquet cannot be read" in refusal(tmp_path / "a.parquet")
    write(tmp_path / "c.csv.gz", ROWS)
    whole = (tmp_path / "c.csv.gz").read_bytes()
    (tmp_path / "c.csv.gz").write_bytes(whole[: len(whole) // 2])
    assert "c.csv.gz cannot be read" in refusal(tmp_path / "c.csv.gz")
    (tmp_path / "c.csv.gz").write_bytes(whole[:20] + bytes(10) + whole[30:])
    assert "c.csv.gz cannot be read" in refusal(tmp_path / "c.csv.gz")
    (tmp_path / "e.csv").write_bytes(b"url,creator\nhttps://a.example/1,Ren\xe9\n")
    assert rows(tmp_path / "e.csv") == [ListedUrl("https://a.example/1", attribution="Ren\xe9")]


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_large_lists_are_read_piece_by_piece(tmp_path, kind):
    number = 10 * BATCH + 1
    path = tmp_path / f"list.{kind}"
    names = [f"https://a.example/{i:0200}.jpg" for i in range(number)]
    if kind == "parquet":  # in one row group, which is as bad as it gets
        pq.write_table(pa.table({"url": names}), path, row_group_size=number, use_dictionary=False, compression="none")
    else:
        path.write_text("url\n" + "\n".join(names))
    sizes, most, before = [], 0, pa.total_allocated_bytes()
    if kind == "csv":  # whose memory is Python's; Parquet's is Arrow's
        tracemalloc.start()
    for batch in UrlList(path):
        sizes.append(len(batch))
        most = max(most, pa.total_allocated_bytes() - before)
    if kind == "csv":
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert sizes == [BATCH] * (number // BATCH) + [1]
    assert 0 < most < number * 200 * (0.4 if kind == "parquet" else 1)


U1, U2, U3 = "https://a.example/1.jpg", "https://a.example/2.jpg", "https://a.example/3.jpg"
# (name, content, what each row gives, what the choice of columns is said to be)
PUBLISHED = [
    ("captions.tsv", f"a busy station\t{U1}\nsierra, looking stunning\t{U2}\n", [(U1,), (U2,)], "url=2, no label"),
    ("urls_first.tsv", f"{U1}\tA caption, one\n{U2}\tB\n", [(U1,), (U2,)], "url=1, no label"),
    ("flickr", f"1\tn\thttps://f.example/p/1\t{U1}\tBY\thttps://creativecommons.org/licenses/by/2.0/\n" * 2,
     [(U1, "", "cc-by-2.0")] * 2, "url=4, license=6, no label"),
    ("excel.csv", f"sep=;\nurl;label;Licence\n{U1};cat;CC BY 4.0\n", [(U1, "cat", "cc-by-4.0")],
     "url=url, label=label, license=Licence"),
    ("tabs.csv", f"url\tlabel\n{U1}\ta, b\n", [(U1, "a, b")], "url=url, label=label"),
    ("spaces.csv", f'url, label, license\n{U1}, "cat, wild", CC0\n', [(U1, "cat, wild", "cc0-1.0")],
     "url=url, label=label, license=license"),
    ("fall.txt", f"n00004475_6590\t{U1}\nn00004475_15899\t{U2}\n", [(U1, "n00004475"), (U2, "n00004475")],
     "url=2, label=1"),
    ("spaced.txt", f"n00004475_6590 {U1}\nn00004476_1   {U2}\n", [(U1, "n00004475"), (U2, "n00004476")],
     "url=2, label=1"),
    ("commas.txt", "https://a.example/1,2.jpg\nhttps://a.example/3,4.jpg\n",
     [("https://a.example/1,2.jpg",), ("https://a.example/3,4.jpg",)], "url=1, no label"),
    ("export.csv", f"id,license,url,image_url,scientific_name,user_name\n1,CC0,https://a.example/obs/1,{U1},Lixus,Ann\n",
     [(U1, "Lixus", "cc0-1.0", "Ann", "https://a.example/obs/1")],
     "url=image_url, label=scientific_name, license=license, attribution=user_name, page=url"),
    ("multimedia.txt", f"gbifID\tidentifier\treferences\tlicense\trightsHolder\n1\t{U1}\thttps://a.example/o\tCC0\tAnn\n",
     [(U1, "", "cc0-1.0", "Ann", "https://a.example/o")],
     "url=identifier, license=license, attribution=rightsHolder, page=references, no label"),
    ("occurrences.csv", f"class,species,associatedMedia\nInsecta,Lixus iridis,{U1} | {U2}|{U3}\n",
     [(U1, "Lixus iridis"), (U2, "Lixus iridis"), (U3, "Lixus iridis")], "url=associatedMedia, label=species"),
    ("photos.tsv000", f"photo_id\tphoto_url\tphoto_image_url\nx\thttps://u.example/photos/x\t{U1}\n",
     [(U1, "", "", "", "https://u.example/photos/x")], "url=photo_image_url, page=photo_url, no label"),
    ("records.json", json.dumps([{"url": U1, "caption": "a"}, {"url": U2}]), [(U1,), (U2,)], "url=url, no label"),
    ("columns.json", json.dumps({"caption": {"0": "a", "5": "b"}, "url": {"0": U1, "5": U2}}), [(U1,), (U2,)],
     "url=url, no label"),
    ("index.json", json.dumps({"x": {"url": U1, "label": "a"}, "y": {"url": U2, "label": "b"}}),
     [(U1, "a"), (U2, "b")], "url=url, label=label"),
    ("split.json", json.dumps({"columns": ["label", "url"], "data": [["a", U1], ["b", U2]]}), [(U1, "a"), (U2, "b")],
     "url=url, label=label"),
    ("inner.json", json.dumps({"info": {}, "images": [{"coco_url": U1, "id": 1}]}), [(U1,)], "url=coco_url, no label"),
    ("some.jsonl", f'{{"url": "{U1}"}}\n{{"url": "{U2}", "label": "cat", "license": "cc0"}}\n',
     [(U1,), (U2, "cat", "cc0-1.0")], "url=url, label=label, license=license"),
    ("query.csv", "item,itemLabel,pic\nhttp://w.example/Q1,x,http://commons.wikimedia.org/wiki/Special:FilePath/A%20b.jpg\n",
     [("http://commons.wikimedia.org/wiki/Special:FilePath/A%20b.jpg", "x", "", "", "http://w.example/Q1")],
     "url=pic, label=itemLabel, page=item"),
    ("open_data.csv", "photo_uuid\tphoto_id\textension\tlicense\nu\t7\tjpeg\tCC-BY\n",
     [("https://inaturalist-open-data.s3.amazonaws.com/photos/7/medium.jpeg", "", "cc-by")],
     "url=photo_id+extension, license=license, no label"),
    ("files.csv", "url,author\nhttps://commons.wikimedia.org/wiki/File:A.JPG,Ann\n",
     [("https://commons.wikimedia.org/wiki/Special:FilePath/A.JPG", "", "", "Ann",
       "https://commons.wikimedia.org/wiki/File:A.JPG")], "url=url, attribution=author, no label"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "read", "choice"), PUBLISHED, ids=[case[0] for case in PUBLISHED])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le"])
def test_lists_as_they_are_published(tmp_path, name, content, read, choice, encoding):
    (tmp_path / name).write_bytes(content.encode(encoding))
    urls = UrlList(tmp_path / name)
    found = [tuple(said or "" for said in astuple(row)) for batch in urls for row in batch]
    assert found == [(*values, *[""] * (5 - len(values))) for values in read]
    assert urls.summary()[0].endswith(f"; {choice}")
    without = sum(len(values) < 2 or not values[1] for values in read) if ", label=" in f", {choice}" else 0
    assert len(urls.remarks()) == bool(without)


@pytest.mark.parametrize("name", ["list.tsv", "list.csv"])
def test_a_quote_that_nothing_closes_costs_no_row(tmp_path, name):
    separator = "\t" if name.endswith("tsv") else ","
    lines = [("url", "label", "caption"), (U1, "cat", '"open'), (U2, "dog", "plain"), (U3, "dog", '6" nail')]
    many = [(f"https://a.example/{i}.jpg", "dog", "x") for i in range(4, 40)] + [
        ("https://a.example/40.jpg", "cat", '"b')
    ]
    (tmp_path / name).write_text("".join(separator.join(line) + "\n" for line in [*lines, *many]))
    urls = UrlList(tmp_path / name)
    assert [row.label for batch in urls for row in batch] == ["cat", "dog", "dog"] + ["dog"] * 36 + ["cat"]
    assert urls.rows == 40
    assert "2 lines with a quote that nothing closes" in " ".join(urls.remarks())


def test_values_over_several_lines_and_of_any_length(tmp_path):
    (tmp_path / "list.csv").write_text(
        f'caption,url\n"one\n\n""two"", three",{U1}\n{"x" * 300_000},{U2}\na,b,{U3}\n,\n'
    )
    urls = UrlList(tmp_path / "list.csv")
    assert [row.url for batch in urls for row in batch] == [U1, U2]
    assert urls.rows == 4
    remarks = " ".join(urls.remarks())
    assert "left out: 1 row without a URL (line 7" in remarks
    assert "left out: 1 row with something that is no URL (line 6" in remarks
    assert "1 line with more or fewer values than the first line has (line 6" in remarks


def test_what_is_no_url_is_counted_by_kind(tmp_path):
    cells = [U1, "", "cat", "ftp://a.example/1", "data:image/png;base64,AAAA", "ftp://b.example/2", "nan"]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps({"url": cell}) + "\n" for cell in cells) + "[]\n{\n")
    urls = UrlList(tmp_path / "list.jsonl")
    assert len([row for batch in urls for row in batch]) == 1
    assert urls.left_out == {
        "without a URL": 1, "with something that is no URL": 2, "with a URL of ftp:": 2, "with a URL of data:": 1
    }  # fmt: skip
    assert "2 lines that hold no JSON object (line 8" in " ".join(urls.remarks())


@pytest.mark.parametrize(
    ("cell", "url"),
    [
        ("https://a.example/my photo.jpg", "https://a.example/my%20photo.jpg"),
        ("//a.example/x.jpg", "https://a.example/x.jpg"),
        ("www.a.example/1.jpg", "http://www.a.example/1.jpg"),
        ("https://a.example/\u00fc.jpg", "https://a.example/%C3%BC.jpg"),
        ("s3://bucket/photos/1.jpg", "https://bucket.s3.amazonaws.com/photos/1.jpg"),
        ("gs://bucket/1.jpg", "https://storage.googleapis.com/bucket/1.jpg"),
        ("https://a.example/a%20b.jpg?x=1&amp;y=2", "https://a.example/a%20b.jpg?x=1&y=2"),
        ("<https://a.example/1.jpg>", "https://a.example/1.jpg"),
        ("https://web.example/2010/http://a.example/1.jpg", "https://web.example/2010/http://a.example/1.jpg"),
    ],
)
def test_urls_as_people_write_them(tmp_path, cell, url):
    write(tmp_path / "list.csv", [{"url": cell, "label": "cat"}])
    assert rows(tmp_path / "list.csv") == [ListedUrl(url, "cat")]


@pytest.mark.parametrize(
    ("header", "values", "question"),
    [
        ("page,species_seen,file", ["https://a.example/1", "kite", U1], None),
        ("first,second", [U1, U2], "which column holds the URLs of images, first or second?"),
        (
            "url,file",
            ["https://a.example/page", "https://a.example/2"],
            "which column holds the URLs of images, url or file?",
        ),
        ("occurrenceID,species", ["https://a.example/o/1", "kite"], "has no column of image URLs, only occurrenceID"),
        ("url,class,category", [U1, "Aves", "kite"], "which column holds the labels, class or category?"),
        ("url,species_name", [U1, "kite"], "does species_name hold the labels?"),
        ("url,animal_type", [U1, "kite"], "does animal_type hold the labels?"),
        ("url,habitat", [U1, "kite"], "does habitat hold the labels?"),
        ("url,kind,seen", [U1, "kite", "kite"], "does kind or seen hold the labels?"),
    ],
)
def test_what_is_not_clear_is_asked(tmp_path, header, values, question):
    write(tmp_path / "list.csv", [dict(zip(header.split(","), values, strict=True))] * 4 + [
        dict(zip(header.split(","), [value.replace("kite", "owl") for value in values], strict=True))
    ] * 4)  # fmt: skip
    if question:
        assert question in refusal(tmp_path / "list.csv")
        assert {row.label for row in rows(tmp_path / "list.csv", header.split(",")[0], "none")} == {""}
    else:
        assert {row.label for row in rows(tmp_path / "list.csv", None, "species_seen")} == {"kite", "owl"}


IMAGE, PAGE, BARE = "https://img.org/{}.jpg", "https://site.org/page/{}", "https://cdn.org/x/{}"
ICON, HTML = "https://site.org/icons/{}.jpg", "https://site.org/{}.html"
# (header, values of which {} is the row, the column of images or what is asked)
IMAGE_COLUMNS = [
    ("id,photo,species,genus,rights,creator,link", ["{}", IMAGE.upper(), "a", "b", "c", "d", PAGE], "photo"),
    ("url,image,category", [PAGE, "https://img.org/{}.JPEG", "cat"], "image"),
    ("link,photo", [PAGE, IMAGE], "photo"),
    ("url,image", ["https://site.org/{}.jpg.html", IMAGE], "image"),
    ("url,photo,label", [PAGE, BARE, "cat"], "url or photo?"),
    ("url,media_url", [PAGE, BARE], "url or media_url?"),
    ("url,download_url", [PAGE, BARE], "url or download_url?"),
    ("link,file", [PAGE, BARE], "link or file?"),
    ("url,src", [HTML, BARE], "src"),
    ("user_icon,photo_link,species", [ICON, BARE, "cat"], "photo_link"),
    ("thumbnail_url,full_url", [IMAGE, IMAGE], "full_url"),
    ("thumbnail_url,full_url", [IMAGE, BARE], "full_url"),
    ("url,thumbnail", [PAGE, IMAGE], "url or thumbnail?"),
    ("full_url,medium_url", [IMAGE, IMAGE + "?m"], "full_url or medium_url?"),
    ("url,image_url", ["https://www.inaturalist.org/observations/{}", BARE], "image_url"),
    ("photo_id,photo_url,photo_image_url", ["{}", PAGE, BARE], "photo_image_url"),
    ("url,source", [BARE, "https://commons.wikimedia.org/wiki/File:{}.jpg"], "url"),
    ("OriginalURL,OriginalLandingURL,AuthorProfileURL,Thumbnail300KURL", [IMAGE, PAGE, PAGE, ICON], "OriginalURL"),
    ("page_url,image_url", [PAGE, IMAGE], "image_url"),
]  # fmt: skip


def many(header, values, number=20):
    return [dict(zip(header.split(","), [v.format(i) for v in values], strict=True)) for i in range(number)]


@pytest.mark.parametrize(("header", "values", "expected"), IMAGE_COLUMNS)
def test_the_column_of_images(tmp_path, header, values, expected):
    path = tmp_path / "list.csv"
    write(path, many(header, values))
    if expected.endswith("?"):
        assert f"which column holds the URLs of images, {expected}" in refusal(path, None, "none")
        return
    urls = UrlList(path, Asked(label="none"))
    list(urls)
    assert urls.columns[path].url == expected


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_whole_list_tells_what_its_columns_are(tmp_path, kind):
    """A column may begin late, and rows are often sorted by label."""
    path = tmp_path / f"list.{kind}"
    records = many("url,image_url", [HTML, ""], 4000) + many("url,image_url", [HTML, IMAGE], 50)
    write(path, records)
    assert len(rows(path)) == 50
    write(path, [{"url": IMAGE.format(i), "kind": f"bird {i // 300}"} for i in range(3000)])
    assert "does kind hold the labels?" in refusal(path)


@pytest.mark.parametrize(
    ("header", "values", "asked"),
    [("url,kind", [IMAGE, "cat"], "kind"), ("url,Plant Name", [IMAGE, "oak"], "Plant Name"),
     ("url,title", [IMAGE, "oak"], "title"), ("url,y", [IMAGE, "0"], "y"), ("url,name", [IMAGE, "oak"], "name"),
     ("url,target,name", [IMAGE, "images/{}.jpg", "oak"], "name"), ("url,class,family", [IMAGE, "Aves", "Accipitridae"],
      "class or family"), ("url,type", [IMAGE, "oak"], "type")],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_columns_that_may_hold_labels_are_asked_about(tmp_path, header, values, asked, kind):
    write(tmp_path / f"list.{kind}", many(header, values))
    assert f"does {asked} hold the labels?" in refusal(tmp_path / f"list.{kind}")


def test_numbers_that_may_be_labels(tmp_path):
    pq.write_table(pa.table({"url": [IMAGE.format(i) for i in range(9)], "y": [0, 1, 2] * 3}), tmp_path / "a.parquet")
    assert "does y hold the labels?" in refusal(tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("".join(f"{IMAGE.format(i)},{i % 2}\n" for i in range(9)))
    assert "does column 2 ('0', '1') hold the labels?" in refusal(tmp_path / "b.csv")
    (tmp_path / "c.csv").write_text("".join(f"{BARE.format(i)},{PAGE.format(i)}\n" for i in range(9)))
    assert f"1 ('{BARE.format(0)}', '{BARE.format(1)}', ...) or 2 (" in refusal(tmp_path / "c.csv")


@pytest.mark.parametrize(
    ("header", "values"),
    [("url,title", [IMAGE, "photo {} of mine"]), ("url,width,height", [IMAGE, "640", "480"]),
     ("url,split,format", [IMAGE, "train", "jpg"]), ("url,language,status", [IMAGE, "en", "ok"]),
     ("url,user,date", [IMAGE, "Ann", "2020-01-01"]), ("url,quality_grade", [IMAGE, "research"]),
     ("url,x,y", [IMAGE, "0.5", "1e-3"]), ("url,dims", [IMAGE, "640x480"]), ("url,seen", [IMAGE, "2020-01-02"]),
     ("identifier,type,format", [IMAGE, "StillImage", "image/jpeg"])],
)  # fmt: skip
def test_columns_of_something_else_are_not_asked_about(tmp_path, header, values):
    write(tmp_path / "list.csv", many(header, values))
    assert {row.label for row in rows(tmp_path / "list.csv")} == {""}


@pytest.mark.parametrize(
    ("header", "values", "label"),
    [("url,genus,species", [IMAGE, "Milvus", "migrans"], "Milvus migrans"),
     ("url,genus,specificEpithet", [IMAGE, "Milvus", "migrans"], "Milvus migrans"),
     ("url,class,order,family,genus", [IMAGE, "Aves", "x", "y", "Milvus"], "Milvus"),
     ("url,class,order,vernacularName", [IMAGE, "Aves", "x", "kite"], "kite"),
     ("url,genus,species", [IMAGE, "Milvus", "Milvus migrans"], "Milvus migrans"),
     ("url,genus,specificEpithet,scientificName", [IMAGE, "Milvus", "migrans", "Milvus m."], "Milvus m.")],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_ranks_of_living_things(tmp_path, header, values, label, kind):
    write(tmp_path / f"list.{kind}", many(header, values))
    assert {row.label for row in rows(tmp_path / f"list.{kind}")} == {label}


def test_rows_without_a_label_are_counted(tmp_path):
    labels = ["cat", "", "nan", "NULL", "\\N", "NA", "None", "dog"]
    write(tmp_path / "list.csv", [{"url": IMAGE.format(i), "label": label} for i, label in enumerate(labels)])
    urls = UrlList(tmp_path / "list.csv")
    assert [row.label for batch in urls for row in batch] == ["cat", *[""] * 6, "dog"]
    assert urls.remarks() == ["6 lines without a label, which stand under 'all' (line 3 of list.csv)"]


def test_labels_in_objects(tmp_path):
    labels = [{"name": "cat"}, [{"name": "cat"}], {"id": 3, "label": "cat"}, {"text": "cat"}, "cat"]
    write(tmp_path / "list.jsonl", [{"url": IMAGE.format(i), "label": label} for i, label in enumerate(labels)])
    assert {row.label for row in rows(tmp_path / "list.jsonl")} == {"cat"}
    for values, label in ((pa.array([b"cat", b"cat"]), "cat"), (pa.array([Decimal("7.00")] * 2), "7"),
                          (pa.array([Decimal("7.50")] * 2), "7.5")):  # fmt: skip
        pq.write_table(pa.table({"url": [U1, U2], "label": values}), tmp_path / "list.parquet")
        assert {row.label for row in rows(tmp_path / "list.parquet")} == {label}


@pytest.mark.parametrize(
    "cell", [f'["{U1}", "{U2}"]', f"['{U1}', '{U2}']", f'<img src="{U1}"> <img class=x src={U2} />', f"{U1} | {U2}"]
)
def test_several_urls_in_a_cell(tmp_path, cell):
    write(tmp_path / "list.csv", [{"id": "1", "photos": cell, "label": "cat"}])
    assert rows(tmp_path / "list.csv") == [ListedUrl(U1, "cat"), ListedUrl(U2, "cat")]


@pytest.mark.parametrize("between", [" ", ",", ";", "|", "\t"])
@pytest.mark.parametrize("header", [False, True])
def test_labels_behind_the_urls_of_a_text_file(tmp_path, between, header):
    lines = [f"{IMAGE.format(i)}{between}b{i % 3}" for i in range(9)]
    (tmp_path / "list.txt").write_text("\n".join([f"url{between}label"] * header + lines) + "\n")
    found = rows(tmp_path / "list.txt", *(() if header else ("1", "2")))
    assert found == [ListedUrl(IMAGE.format(i), f"b{i % 3}") for i in range(9)]
    if not header:
        assert "does column 2 ('b0', 'b1', ...) hold the labels?" in refusal(tmp_path / "list.txt")


@pytest.mark.parametrize("between", [" ", ",", ";", "|"])
def test_labels_behind_urls_without_an_ending(tmp_path, between):
    lines = [f"https://a.example/photos/{i}?size=big{between}red kite{'s' * (i % 2)}" for i in range(9)]
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    assert "does column 2 ('red kite', 'red kites') hold the labels?" in refusal(tmp_path / "list.txt")
    found = rows(tmp_path / "list.txt", "1", "2")
    assert found[:2] == [ListedUrl(f"https://a.example/photos/{i}?size=big", f"red kite{'s' * i}") for i in range(2)]


@pytest.mark.parametrize(
    "name", ["1,2.jpg", "x?size=1,2", "a,b/c", "c.jpg?x=1;y=2", "c.jpg?x=a|b", "my photo.jpg", "full/1,200/0"]
)
def test_commas_and_spaces_in_the_urls_of_a_text_file(tmp_path, name):
    (tmp_path / "list.txt").write_text("".join(f"https://a.example/{i}/{name}\n" for i in range(9)))
    assert len(rows(tmp_path / "list.txt")) == 9
    assert unquote(rows(tmp_path / "list.txt")[0].url) == f"https://a.example/0/{name}"


def test_comments_before_a_list(tmp_path):
    (tmp_path / "a.csv").write_text(f"# from a museum, 2020\n# by Ann\n\nurl,label\n{U1},cat\n{U2},dog\n")
    urls = UrlList(tmp_path / "a.csv")
    assert [row for batch in urls for row in batch] == [ListedUrl(U1, "cat"), ListedUrl(U2, "dog")]
    assert urls.remarks() == ["2 lines before the list, left out (line 1 of a.csv)"]
    (tmp_path / "b.csv").write_text(f"#url,label\n{U1},cat\n{U2},dog\n")
    assert rows(tmp_path / "b.csv") == [ListedUrl(U1, "cat"), ListedUrl(U2, "dog")]


def test_row_names_of_r(tmp_path):
    lines = "".join(f'"{i}","{IMAGE.format(i)}","b{i % 2}"\n' for i in range(4))
    (tmp_path / "list.csv").write_text(f'"url","label"\n{lines}')
    urls = UrlList(tmp_path / "list.csv")
    assert [row for batch in urls for row in batch] == [ListedUrl(IMAGE.format(i), f"b{i % 2}") for i in range(4)]
    assert urls.remarks() == []


def test_lines_that_are_no_utf_8_are_counted(tmp_path):
    texts = {
        "a.csv": f"url,label\n{U1},Ren\xe9\n{U2},cat\n",
        "b.json": f'[{{"url": "{U1}",\n"label": "\xe9"}}]',
        "c.jsonl": f'{{"url": "{U1}", "label": "\xe9"}}\n',
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text.encode("cp1252"))
        urls = UrlList(tmp_path / name)
        assert "\xe9" in next(iter(urls))[0].label
        assert f"1 line not in UTF-8, read as Windows-1252 (line {1 + (name < 'c')} of {name})" in urls.remarks()


def test_json_of_urls_by_label(tmp_path):
    (tmp_path / "list.json").write_text(json.dumps({"cat": [U1, U2], "dog": [U3]}))
    assert rows(tmp_path / "list.json") == [ListedUrl(U1, "cat"), ListedUrl(U2, "cat"), ListedUrl(U3, "dog")]
    (tmp_path / "list.json").write_text(json.dumps({"cat": [U1], "dog": [U3]}))
    assert rows(tmp_path / "list.json") == [ListedUrl(U1, "cat"), ListedUrl(U3, "dog")]


@pytest.mark.parametrize("name", ["coco_url", "url", "flickr_url"])
def test_coco(tmp_path, name):
    coco = {
        "images": [{"id": i, "file_name": f"{i}.jpg", name: url} for i, url in enumerate([U1, U2, U3])],
        "annotations": [{"image_id": i, "category_id": c} for i, c in ((1, 7), (0, 8), (0, 7), (1, 7))],
        "categories": [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}],
    }
    (tmp_path / "list.json").write_text(json.dumps(coco))
    urls = UrlList(tmp_path / "list.json")
    assert [row for batch in urls for row in batch] == [ListedUrl(U1, "dog"), ListedUrl(U2, "cat"), ListedUrl(U3)]
    remarks = " ".join(urls.remarks())
    assert "1 line with several labels, of which the first counts (record 1" in remarks
    assert "1 line without a label, which stand under 'all' (record 3" in remarks


def test_what_is_no_list_in_a_folder_is_left_out(tmp_path):
    write(tmp_path / "a.csv", [{"url": U1, "label": "cat"}])
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "stats.json").write_text('{"count": 3, "seconds": {"all": 5}}')
    (tmp_path / "notes.csv").write_bytes(b"PK\x03\x04")
    (tmp_path / "times.json").write_text('{"a": {"x": 1}, "b": {"x": 2}}')
    for asked in ((), ("url", "label")):
        urls = UrlList(tmp_path, Asked(*asked))
        assert [row for batch in urls for row in batch] == [ListedUrl(U1, "cat")]
        assert "stats.json has no list of records in it" in " ".join(urls.remarks())
        assert "left out: 3 files: " in " ".join(urls.remarks())
        assert "notes.csv is no list of URLs" in " ".join(urls.remarks())
    write(tmp_path / "a.csv", [{"url": U1, "label": "cat"}])
    assert "has no column 'kind'" in refusal(tmp_path, "url", "kind")
    (tmp_path / "a.csv").unlink()
    assert "notes.csv is no list of URLs" in refusal(tmp_path)


def test_class_labels_of_hugging_face(tmp_path):
    features = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": [{"url": U1}, {"url": U2}], "label": [1, 0]})
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), path)
    (tmp_path / "README.md").write_text("a card")
    urls = UrlList(tmp_path, Asked("image"))
    assert [row for batch in urls for row in batch] == [ListedUrl(U1, "dog"), ListedUrl(U2, "cat")]
    assert urls.remarks() == ["left out: files that are not part of the list: 1 .md"]


def test_packed_lists(tmp_path):
    for name, pack in (("a.csv.bz2", bz2.compress), ("b.txt.xz", lzma.compress), ("c", gzip.compress)):
        (tmp_path / name).write_bytes(pack(f"url\n{U1}\n".encode()))
        assert rows(tmp_path / name) == [ListedUrl(U1)]


OF_CASES = {
    "Train_GCC-training.tsv": (2, "url=2, no label"),
    "cc12m.tsv": (2, "url=1, no label"),
    "coyo_labeled.parquet": (1, "url=url, label=labels"),
    "datacomp.parquet": (1, "url=url, no label"),
    "dict_label.parquet": (1, "url=image_urls, label=label"),
    "excel_semicolon.csv": (1, "url=url, label=label, license=license"),
    "fall11_urls.txt": (2, "url=2, label=1"),
    "gbif_multimedia.txt": (
        1, "url=identifier, license=license, attribution=rightsHolder, page=references, no label"
    ),
    "gbif_multimedia_renamed.tsv": (
        1, "url=identifier, license=license, attribution=rightsHolder, page=references, no label"
    ),
    "hf_dataset": (1, "url=url, no label"),
    "image_url.csv": (1, "url=image_url, label=label"),
    "img2dataset_files": (1, "url=url, no label"),
    "inat_export_observations.csv": (
        1, "url=image_url, label=scientific_name, license=license, attribution=user_name, page=url"
    ),
    "inat_open_data_photos.csv.gz": (1, "url=photo_id+extension, license=license, no label"),
    "int_label.parquet": (1, "url=url, label=label"),
    "jsonl_optional_fields.jsonl": (2, "url=url, label=label, license=license, page=page"),
    "laion400m.parquet": (1, "url=URL, license=LICENSE, no label"),
    "landmark_train.csv": (1, "url=url, label=landmark_id"),
    "landmark_train_attribution.csv": (1, "url=url, license=license, attribution=author, no label"),
    "noquote.tsv": (3, "url=url, label=label"),
    "open_images.csv": (
        1, "url=OriginalURL, license=License, attribution=Author, page=OriginalLandingURL, no label"
    ),
    "pandas_columns.json": (1, "url=url, no label"),
    "pandas_records.json": (1, "url=url, no label"),
    "pd12m.jsonl": (1, "url=url, license=license, page=source, no label"),
    "photos.tsv000": (1, "url=photo_image_url, attribution=photographer_username, page=photo_url, no label"),
    "spaces_in_header.csv": (1, "url=url, label=label, license=license"),
    "url_spaces.csv": (6, "url=url, label=label"),
    "wikidata_query.csv": (1, "url=pic, label=itemLabel, page=item"),
    "wit_v1.train.tsv.gz": (2, "url=image_url, page=page_url, no label"),
}  # fmt: skip


@pytest.mark.skipif(not CASES.is_dir(), reason="needs the shared cases")
def test_every_shared_list_is_read_or_asked_about():
    assert {path.name for path in CASES.iterdir()} == {"gbif_simple_download.csv", *OF_CASES}
    assert "has no column of image URLs" in refusal(CASES / "gbif_simple_download.csv")
    for name, (number, columns) in OF_CASES.items():
        urls = UrlList(CASES / name)
        assert sum(map(len, urls)) == number, name
        assert urls.summary()[0].partition("; ")[2] == columns
        assert not urls.left_out


MANY = [(IMAGE.format(i), f"Parus major {i % 3}") for i in range(12)]


@pytest.mark.parametrize("name", ["multimedia.txt", "photos.tab", "part.tsv000", "list", "list.csv"])
@pytest.mark.parametrize("first", ["url", "label"])
def test_tabs_whatever_a_list_is_called(tmp_path, name, first):
    order = (0, 1) if first == "url" else (1, 0)
    lines = [("url", "label"), *MANY]
    (tmp_path / name).write_text("".join("\t".join(line[at] for at in order) + "\tBob Smith\n" for line in lines))
    assert rows(tmp_path / name) == [ListedUrl(*values) for values in MANY]


def test_columns_made_by_spaces(tmp_path):
    box = [f"{i:06d} {url} 57.22 41.97 165.66" for i, (url, _) in enumerate(MANY)]
    (tmp_path / "n001.txt").write_text("\n".join(box) + "\n")
    assert rows(tmp_path / "n001.txt") == [ListedUrl(url) for url, _ in MANY]
    named = [f"{i} {url} cat{i % 2}" for i, (url, _) in enumerate(MANY)]
    (tmp_path / "list.txt").write_text("\n".join(["id url label", *named]) + "\n")
    assert rows(tmp_path / "list.txt") == [ListedUrl(url, f"cat{i % 2}") for i, (url, _) in enumerate(MANY)]
    words = [f"great gray owl{'s' * (i % 2)}  {url}" for i, (url, _) in enumerate(MANY)]
    (tmp_path / "list.txt").write_text("\n".join(words) + "\n")
    assert rows(tmp_path / "list.txt", "2", "1")[:2] == [
        ListedUrl(MANY[0][0], "great gray owl"), ListedUrl(MANY[1][0], "great gray owls"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ({name: [{"url": IMAGE.format(f"{name}{i}")} for i in range(4)] for name in ("cat", "dog")}, {"cat", "dog"}),
        ({"train": [{"url": IMAGE.format(i), "label": "cat"} for i in range(6)],
          "val": [{"url": IMAGE.format(i), "label": "dog"} for i in range(6, 8)]}, {"cat", "dog"}),
        ({str(i): {"url": IMAGE.format(i)} | ({"label": "cat"} if i else {}) for i in range(8)}, {"", "cat"}),
        ({str(i): {"url": IMAGE.format(i)} for i in range(8)}, {""}),
        ({"data": {"items": [{"url": IMAGE.format(i), "label": "cat"} for i in range(8)]}}, {"cat"}),
        ({"status": "ok", "data": {"items": [{"url": IMAGE.format(i), "label": "cat"} for i in range(8)]}}, {"cat"}),
    ],
)  # fmt: skip
def test_no_record_of_a_json_file_is_lost(tmp_path, content, labels):
    (tmp_path / "list.json").write_text(json.dumps(content))
    found = rows(tmp_path / "list.json")
    assert (len({row.url for row in found}), {row.label for row in found}) == (8, labels)


def test_json_lines_whose_first_is_damaged_and_lines_of_lists(tmp_path):
    good = [json.dumps({"url": url, "label": label}) for url, label in MANY]
    (tmp_path / "list.jsonl").write_text("\n".join(['{"url": "https://a.exa', *good]) + "\n")
    urls = UrlList(tmp_path / "list.jsonl")
    assert [row for batch in urls for row in batch] == [ListedUrl(*row) for row in MANY]
    assert "1 line that hold no JSON object (line 1 of list.jsonl)" in urls.remarks()
    (tmp_path / "lists.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in MANY))
    assert rows(tmp_path / "lists.jsonl", "1", "2") == [ListedUrl(*row) for row in MANY]


def test_a_quote_without_a_url_swallows_no_rows(tmp_path):
    good = [f"{url},nice,cat" for url, _ in MANY]
    lines = ["url,caption,label", *good[:3], ',"unclosed,cat', *good[3:], 'https://a.example/x.jpg,nail 5",cat']
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    assert [row.url for row in rows(tmp_path / "list.csv")] == [url for url, _ in MANY] + ["https://a.example/x.jpg"]


def test_what_stands_before_a_table_is_left_out(tmp_path):
    lines = ["Exported 2020-01-01", "by Ann", "", "url,label", *(",".join(row) for row in MANY)]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    assert rows(tmp_path / "list.csv") == [ListedUrl(*row) for row in MANY]


def test_more_urls_than_names_are_no_names_of_rows(tmp_path):
    lines = ["label,urls", *(f"cat,{IMAGE.format(i)},{IMAGE.format(i + 100)}" for i in range(9))]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    urls = UrlList(tmp_path / "list.csv")
    assert [row for batch in urls for row in batch] == [ListedUrl(IMAGE.format(i), "cat") for i in range(9)]
    assert "9 lines with more or fewer values than the first line has (line 2 of list.csv)" in urls.remarks()


@pytest.mark.parametrize(
    ("header", "values"),
    [("url,supercategory,name", "{},animal,cat{}"), ("label,url,label", "x{1},{0},y{1}"), ("url,keyword", "{},cat{}")],
)
def test_columns_that_may_be_another_are_asked_about(tmp_path, header, values):
    lines = [values.format(url, i % 3) for i, (url, _) in enumerate(MANY)]
    (tmp_path / "list.csv").write_text("\n".join([header, *lines]) + "\n")
    assert "Say so with --label-column" in refusal(tmp_path / "list.csv")


def test_a_list_for_each_class_is_asked_about(tmp_path):
    (tmp_path / "lists").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "lists" / f"{name}.txt").write_text(f"https://a.example/{name}.jpg\n")
    assert "are the names of these lists the labels, cat or dog?" in refusal(tmp_path / "lists")
    assert len(rows(tmp_path / "lists", None, "none")) == 2
    (tmp_path / "splits").mkdir()
    for name in ("train-00000-of-00001", "test-00000-of-00001"):
        (tmp_path / "splits" / f"{name}.txt").write_text(f"https://a.example/{name}.jpg\n")
    assert len(rows(tmp_path / "splits")) == 2


def test_urls_in_angle_brackets(tmp_path):
    (tmp_path / "list.txt").write_text(f"<{U1}>\n<{U2}>\n")
    assert rows(tmp_path / "list.txt") == [ListedUrl(U1), ListedUrl(U2)]
    for page in ("<!DOCTYPE html><p>", "<HTML>", "\n<html>"):
        (tmp_path / "list.txt").write_text(f"{page}{U1}\n")
        assert "is no list of URLs but a web page" in refusal(tmp_path / "list.txt")
