"""Two hundred odd lists of a site: each is read as its author meant it, or refused by the number of the line."""

from __future__ import annotations

import itertools
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from mpssl_fed.data.folder import load_site_csv, site_csv
from mpssl_fed.data.site_csv import read_paths
from mpssl_fed.data.walk import Skipped
from mpssl_fed.errors import UserError
from mpssl_fed.trained.lists import evaluated
from tests.data.test_folder import picture

CLASSES = ("cat", "dog", "a, b", "1", 'say "no"', "größe")
PLAIN = (("a.png", "cat", "p1"), ("b.png", "dog", "p2"), ("sub/c d.png", "cat", "p1"))


@dataclass(frozen=True)
class Odd:
    """A list: its bytes, and what of it: the rows (path, class, subject or None) or a part of the refusal."""

    name: str
    content: bytes
    rows: tuple[tuple[str, str, str | None], ...] = ()
    refused: str = ""


def _quoted(value: str, delimiter: str, always: bool) -> str:
    special = always or any(c in value for c in (delimiter, '"', "\n", "\r")) or value[:1] == " "
    return '"' + value.replace('"', '""') + '"' if special else value


def written(rows: tuple[tuple[str, ...], ...], delimiter: str = ",", end: str = "\n", quote: bool = False, space: str = "") -> str:
    """Return rows as CSV."""
    return "".join((delimiter + space).join(_quoted(value, delimiter, quote) for value in row) + end for row in rows)


def forms() -> list[Odd]:
    """The same list in every form that a program writes: delimiter, line ends, BOM, quotes, blanks, order of columns, subjects."""
    found = []
    for delimiter, end, bom, quote, space, subjects in itertools.product(
        ",;\t|", ("\n", "\r\n"), (b"", b"\xef\xbb\xbf"), (False, True), ("", " "), (False, True)
    ):
        head = ("path", "label", "subject") if subjects else ("path", "label")
        text = written((head, *(row[: len(head)] for row in PLAIN)), delimiter, end, quote, space)
        rows = tuple((path, label, subject if subjects else None) for path, label, subject in PLAIN)
        name = f"{delimiter!r}{end!r}{'bom' if bom else ''}{'quoted' if quote else ''}{space!r}{'subjects' if subjects else ''}"
        found.append(Odd(name, bom + text.encode(), rows))
    for order in itertools.permutations(range(3)):
        rows = (("path", "label", "subject"), *PLAIN)
        text = written(tuple(tuple(row[i] for i in order) for row in rows))
        found.append(Odd(f"order {order}", text.encode(), tuple((p, label, s) for p, label, s in PLAIN)))
    return found


HEAD = b"path,label\n"
WHO = b"path,label,subject\n"
A, B = ("a.png", "cat", None), ("b.png", "dog", None)
READ = [
    Odd("no line end at the end", HEAD + b"a.png,cat", (A,)),
    Odd("old Mac line ends", b"path,label\ra.png,cat\rb.png,dog\r", (A, B)),
    Odd("blank lines", b"\npath,label\n\na.png,cat\n\n\nb.png,dog\n\n"[1:], (A, B)),
    Odd("capitals in the header", b"Path,LABEL\na.png,cat\n", (A,)),
    Odd("blanks in the header", b" path , label \na.png,cat\n", (A,)),
    Odd("blanks about the label", HEAD + b"a.png,cat  \n", (A,)),
    Odd("a comma in a class", HEAD + b'a.png,"a, b"\n', (("a.png", "a, b", None),)),
    Odd("quotes in a class", HEAD + b'a.png,"say ""no"""\n', (("a.png", 'say "no"', None),)),
    Odd("letters beyond ASCII", HEAD + "a.png,größe\n".encode(), (("a.png", "größe", None),)),
    Odd("a path in dots", HEAD + b"./sub/../a.png,cat\n", (A,)),
    Odd("a folder above", HEAD + b"../list/a.png,cat\n", (A,)),
    Odd("brackets and dollars", HEAD + b"[x] $y$ :z:.png,cat\n", (("[x] $y$ :z:.png", "cat", None),)),
    Odd("a line end in a name", HEAD + b'"two\nlines.png",cat\na.png,cat\n', (("two\nlines.png", "cat", None), A)),
    Odd("copies count once", HEAD + b"a.png,cat\ncopy-of-a.png,cat\n", (A,)),
    Odd(
        "a subject with blanks about it", WHO + b"a.png,cat,p1 \nb.png,dog, p1\n", (("a.png", "cat", "p1"), ("b.png", "dog", "p1"))
    ),
    Odd("a subject that is a number", WHO + b"a.png,cat,10\nb.png,dog,100\n", (("a.png", "cat", "10"), ("b.png", "dog", "100"))),
    Odd("a link to a file", HEAD + b"link.png,cat\n", (A,)),
    *[
        Odd(f"{line!r} first {end!r}", bom + f"{line}{end}path{mark}label{end}a.png{mark}cat{end}".encode(), (A,))
        for line, mark in (("sep=;", ";"), ('"sep=;"', ";"), ("SEP=,", ","), ("sep=\t", "\t"), ("sep=|", "|"))
        for end, bom in (("\n", b""), ("\r\n", b"\xef\xbb\xbf"))
    ],
    Odd("sep and a blank line", b"sep=;\n\npath;label\na.png;cat\n", (A,)),
    Odd("blank lines first", b"\n \n\npath,label\na.png,cat\n", (A,)),
    Odd("lines of blanks", b"path,label\n   \na.png,cat\n\t\nb.png,dog\n", (A, B)),
    Odd("delimiters at the end", b"path,label\na.png,cat,,\n", (A,)),
    Odd("blanks before a quote", b'path,label\n "a.png", "cat"\n', (A,)),
    Odd("line ends of all kinds", b"path,label\r\na.png,cat\nb.png,dog\r", (A, B)),
    Odd("a file that begins with #", HEAD + b"#1.png,cat\n", (("#1.png", "cat", None),)),
    Odd("names in one script each", WHO + "a.png,cat,\u0418\u0432\u0430\u043d\nb.png,dog,Ivan\n".encode(),
        (("a.png", "cat", "\u0418\u0432\u0430\u043d"), ("b.png", "dog", "Ivan"))),
]  # fmt: skip


def _missing_words() -> list[Odd]:
    words = ("", " ", "nan", "NaN", "NA", "n/a", "#N/A", "null", "None", "<NA>", "-", "?", "\t")
    return [
        Odd(f"subject {w!r}", WHO + f'a.png,cat,p1\nb.png,dog,"{w}"\n'.encode(), refused=r"line 3: .*(empty|names nobody)")
        for w in words
    ]


def _alike() -> list[Odd]:
    pairs = [
        ("1", "1.0"), ("1", "01"), ("1", "1."), ("1", "1,0"), ("1000", "1e3"), ("7", "007"), ("-1", "-1.0"), ("p1", "P1"),
        ("p 1", "p  1"), ("p1", "p1\u200b"), ("p1", "\uff501"), ("é", "É"), ("p1", "p01"), ("x-3", "x-003"), ("p1", "p1.0"),
        ("ß", "ss"), ("p 1", "p1"), ("p\u20111", "p-1"), ("p\u22121", "p-1"), ("O\u2019Brien", "O'Brien"), ("'7", "7"),
        ("0", "0.00"), ("1e1000", "1E1000"), ("½", "1⁄2"), ("A1", "\u04101"), ("\u04101", "\u03911"), ("CX-7", "\u0421\u0425-7"),
        ("p\u04301", "pa1"), ("P 2", "\u03a12"), ("x1", "x\u0661"), ("\u0412-1", "\u0432-1"), ("M\u0131a", "mia"),
    ]  # fmt: skip
    return [
        Odd(
            f"{one!r} and {two!r}",
            WHO + f'a.png,cat,"{one}"\nb.png,dog,"{two}"\n'.encode(),
            refused=r"line 3: the subject .* looks like .*line 2",
        )
        for one, two in pairs
    ]


REFUSED = [
    Odd("nothing", b"", refused="line 1 must name the columns path,label"),
    Odd("a BOM alone", b"\xef\xbb\xbf", refused="line 1 must name the columns"),
    Odd("a header alone", HEAD, refused="names no image"),
    Odd("no header", b"a.png,cat\n", refused="line 1 must name the columns path,label.*, not a.png,cat"),
    Odd("a column missing", b"path\na.png\n", refused="line 1 must name"),
    Odd("a column unknown", b"path,label,age\na.png,cat,9\n", refused="line 1 must name"),
    Odd("a column without a name", b"path,label,\na.png,cat,\n", refused="line 1 must name"),
    Odd("label twice", b"path,label,label\na.png,cat,dog\n", refused="line 1 names the column 'label' 2 times"),
    Odd("path twice", b"path,label,path\na.png,cat,b.png\n", refused="line 1 names the column 'path' 2 times"),
    Odd("subject twice", b"path,label,subject,Subject\na.png,cat,p1,p2\n", refused="line 1 names the column 'subject' 2 times"),
    Odd("label thrice", b"path,label,label,label\na.png,cat,dog,cat\n", refused="3 times"),
    Odd("label in capitals twice", b"path,label,LABEL\na.png,cat,dog\n", refused="2 times"),
    Odd("the header again", HEAD + b"a.png,cat\npath,label\nb.png,dog\n", refused="line 3: the header again"),
    Odd("NUL in a path", HEAD + b"a.png,cat\nb\0.png,dog\n", refused="line 3: a NUL byte"),
    Odd("NUL in a label", HEAD + b"a.png,c\0at\n", refused="line 2: a NUL byte"),
    Odd("NUL in the header", b"path\0,label\na.png,cat\n", refused="line 1: a NUL byte"),
    Odd("NUL at the end", HEAD + b"a.png,cat\n\0", refused="line 3: a NUL byte"),
    Odd("UTF-16", "path,label\na.png,cat\n".encode("utf-16"), refused="it is UTF-16; expected UTF-8 CSV"),
    *[Odd(f"{code} {bom!r}", bom + "path,label\na.png,cat\n".encode(code), refused=f"it is {code[:6].upper()}; expected UTF-8 CSV")
      for code, mark in (("utf-16-le", b"\xff\xfe"), ("utf-16-be", b"\xfe\xff"), ("utf-32-le", b"\xff\xfe\0\0"),
                         ("utf-32-be", b"\0\0\xfe\xff")) for bom in (b"", mark)],
    Odd("a workbook", b"PK\x03\x04\x14\0\0\0", refused="it is a workbook or an archive"),
    Odd("compressed", b"\x1f\x8b\x08\0", refused="it is compressed"),
    Odd("an image as a list", b"\x89PNG\r\n\x1a\n\0", refused="it is an image"),
    Odd("a BOM twice", b"\xef\xbb\xbf\xef\xbb\xbf" + HEAD, refused="line 1 must .*a second BOM"),
    Odd("a BOM between two lists", HEAD + b"\xef\xbb\xbfa.png,cat\n", refused="line 2: .*does not exist.*do not show"),
    Odd("a comment first", b"# mine\npath,label\na.png,cat\n", refused="line 1 must .*It is a comment, of which a list has none"),
    Odd("a comment as a header", b"#path,label\na.png,cat\n", refused="line 1 must .*Take the # away"),
    Odd("a comment", HEAD + b"a.png,cat\n# mine\n", refused="line 3: no label in '# mine'.*is it a comment"),
    Odd("a comment with a comma", HEAD + b"# this, that\n", refused="line 2: 'that' is not a class.*Is it a comment"),
    Odd("a comment with a class", HEAD + b"# an old one,cat\n", refused="line 2: .*does not exist.*Is it a comment"),
    Odd("a title first", b"My list\npath,label\na.png,cat\n", refused="line 1 must name .*, not my list, separated by one of"),
    Odd("a header after blanks", b"\n\npath,class\n", refused="line 3 must name the columns"),
    Odd("after sep", b"sep=;\npath;label\na.png;cow\n", refused="line 3: 'cow' is not a class"),
    Odd("another sep than said", b"sep=;\npath,label\na.png,cat\n", refused="line 2 must name .*quote each name or none"),
    Odd("a blank after a quote", HEAD + b'"a.png" ,cat\n', refused="line 2: .*nothing may stand between a closing quote"),
    Odd("a blank at the end", HEAD + b'a.png,cat\nb.png,"dog" \n', refused="line 3: .*nothing may stand between a closing quote"),
    Odd("a quote by a backslash", HEAD + b'"a\\".png",cat\n', refused="line 2: .*a quote in a name is doubled"),
    Odd("quotes around all", HEAD + b'"a.png,cat"\n', refused="line 2: no label in 'a.png,cat'.*quotes around all"),
    Odd("quotes around the header", b'"path,label"\n', refused="line 1 must .*quote each name or none"),
    Odd("single quotes", HEAD + b"'a.png',cat\n", refused="line 2: .*does not exist.*Quotes of a list are"),
    Odd("curly quotes", HEAD + "a.png,\u201ccat\u201d\n".encode(), refused="line 2: .*is not a class.*looks like 'cat'"),
    Odd("another delimiter", b"path;label\na.png,cat\n", refused="line 2: no label in 'a.png,cat', .*by ';'.*another del"),
    Odd("blanks as delimiters", b"path label\na.png cat\n", refused="line 1 must .*not path label, separated by one of"),
    Odd("an index", b",path,label\n0,a.png,cat\n", refused="line 1 must .*index=False"),
    Odd("an index with a name", b"Unnamed: 0,path,label\n0,a.png,cat\n", refused="line 1 must .*index=False"),
    Odd("columns without names", b"path,label,,\na.png,cat,,\n", refused="line 1 must .*A column has no name"),
    Odd("a footer", HEAD + b"a.png,cat\n(1 row)\n", refused=r"line 3: no label in '\(1 row\)'.*a note"),
    Odd("DOS's end of a file", HEAD + b"a.png,cat\n\x1a\n", refused=r"line 3: no label in '\\x1a'"),
    Odd("the header in another order", HEAD + b"a.png,cat\nLabel, path\n", refused="line 3: the header again"),
    Odd("another script", HEAD + "a.png,\u0441\u0430t\n".encode(), refused=r"line 2: .*'cat' \(whose c is Latin; here \\u0441"),
    Odd("another case of a file", HEAD + b"A.PNG,cat\n", refused="line 2: .*There is 'a.png'"),
    Odd("a drive with slashes", HEAD + b"C:/scans/a.png,cat\n", refused="line 2: .*a drive of Windows"),
    Odd("a variable", HEAD + b"$HOME/a.png,cat\n", refused="line 2: .*write the path out"),
    Odd("a bucket", HEAD + b"s3://here/a.png,cat\n", refused="line 2: .*It is an address"),
    Odd("Latin-1", HEAD + "a.png,cat\nb.png,größe\n".encode("latin-1"), refused="line 3 is not UTF-8; expected UTF-8 CSV"),
    Odd("a stray byte", b"path,label\n\xff,cat\n", refused="cannot read the list .*line 2.*expected UTF-8 CSV"),
    Odd("too many values", HEAD + b"a.png,cat,dog\n", refused="line 2: more columns than the header names"),
    Odd("a comma in a name", HEAD + b"a,png,cat\n", refused="line 2: more columns"),
    Odd("too few values", HEAD + b"a.png\n", refused="line 2: no label in 'a.png', where the header names 2 columns"),
    Odd("delimiters alone", HEAD + b"a.png,cat\n,\n", refused="line 3: nothing between the delimiters"),
    Odd("no path", HEAD + b",cat\n", refused="line 2: image file '' does not exist"),
    Odd("a missing path", HEAD + b"#N/A,cat\n", refused="line 2: .*does not exist.*Is it missing"),
    Odd("no label", HEAD + b"a.png,\n", refused="line 2: '' is not a class"),
    Odd("no subject", WHO + b"a.png,cat\n", refused="line 2: the subject is empty"),
    Odd("an unknown class", HEAD + b"a.png,cat\n\nb.png,cta\n", refused=r"line 4: 'cta' is not a class .* Did you mean 'cat'\?"),
    Odd("another case", HEAD + b"a.png,Cat\n", refused="line 2: 'Cat' is not a class"),
    Odd("a number as a float", HEAD + b"a.png,1.0\n", refused="line 2: '1.0' is not a class"),
    Odd("an open quote", HEAD + b'a.png,cat\n"b.png,dog\na.png,cat\n', refused="line 3: .*is a quote left open"),
    Odd("text after a quote", HEAD + b'"a".png,cat\n', refused="line 2: .*nothing may stand between a closing quote"),
    Odd("a field without end", HEAD + b"a.png," + b"x" * 200_000 + b"\n", refused="line 2: field larger"),
    Odd("no such file", HEAD + b"a.png,cat\ngone.png,dog\n", refused="line 3: image file 'gone.png' does not exist"),
    Odd("blanks before the path", HEAD + b'" a.png",cat\n', refused="line 2: .*x20a.png' does not exist.*blanks at an end"),
    Odd("blanks after the path", HEAD + b"a.png ,cat\n", refused="line 2: .*does not exist.*blanks at an end"),
    Odd("a Windows path", HEAD + b"sub\\c d.png,cat\n", refused="line 2: .*does not exist.*Write folders with '/'"),
    Odd("a drive", HEAD + b"C:\\scans\\a.png,cat\n", refused="line 2: .*Write folders with '/'"),
    Odd("a share", HEAD + b"\\\\server\\a.png,cat\n", refused="line 2: .*Write folders with '/'"),
    Odd("home", HEAD + b"~/a.png,cat\n", refused="line 2: image file '~/a.png' does not exist"),
    Odd("an address", HEAD + b"file:///a.png,cat\n", refused="line 2: .*does not exist"),
    Odd("a file as a folder", HEAD + b"a.png/b.png,cat\n", refused="line 2: .*cannot be reached"),
    Odd("a folder", HEAD + b"sub,cat\n", refused="line 2: 'sub' is no regular file"),
    Odd("a FIFO", HEAD + b"pipe.png,cat\n", refused="line 2: 'pipe.png' is no regular file"),
    Odd("a device", HEAD + b"/dev/zero,cat\n", refused="line 2: '/dev/zero' is no regular file"),
    Odd("a dead link", HEAD + b"dead.png,cat\n", refused="line 2: image file 'dead.png' does not exist"),
    Odd("a link to itself", HEAD + b"circle.png,cat\n", refused="line 2: image file 'circle.png' cannot be reached"),
    Odd("a name too long", HEAD + b"x" * 5000 + b",cat\n", refused="line 2: image file .*cannot be reached"),
    Odd("the same twice", HEAD + b"a.png,cat\nb.png,dog\na.png,cat\n", refused="line 4: a.png is already named on line 2"),
    Odd("the same in dots", HEAD + b"a.png,cat\n./sub/../a.png,dog\n", refused="line 3: ./sub/../a.png is already named on line 2"),
    Odd("a link to one named", HEAD + b"a.png,cat\nlink.png,cat\n", refused="line 3: link.png is already named on line 2"),
    Odd("a hard link to one named", HEAD + b"a.png,cat\nhard.png,cat\n", refused="line 3: hard.png is already named on line 2"),
    Odd("a copy in two classes", HEAD + b"a.png,cat\ncopy-of-a.png,dog\n", refused="line 3 and .*line 2 are one image"),
    Odd("after a name of two lines", HEAD + b'"two\nlines.png",cat\ngone.png,dog\n', refused="line 4: image file 'gone.png'"),
    Odd("in a name of two lines", HEAD + b'a.png,cat\n"go\nne.png",dog\n', refused=r"line 3: image file 'go\\nne.png' does"),
    Odd("something that steers", HEAD + b"\x1b[31m.png,cat\n", refused=r"line 2: image file '\\x1b\[31m.png'"),
    *_missing_words(),
    *_alike(),
]  # fmt: skip
LISTS = [*forms(), *READ, *REFUSED]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "list"
    for i, name in enumerate(("a.png", "b.png", "sub/c d.png", "[x] $y$ :z:.png", "two\nlines.png", "#1.png")):
        picture(folder / name, seed=i)
    (folder / "copy-of-a.png").write_bytes((folder / "a.png").read_bytes())
    (folder / "link.png").symlink_to("a.png")
    (folder / "hard.png").hardlink_to(folder / "a.png")
    (folder / "dead.png").symlink_to("/annex/gone.png")
    (folder / "circle.png").symlink_to("circle.png")
    os.mkfifo(folder / "pipe.png")
    return folder


def test_there_are_two_hundred() -> None:
    assert len({odd.name for odd in LISTS}) == len(LISTS) >= 200


@pytest.mark.parametrize("odd", LISTS, ids=lambda odd: odd.name)
def test_read_as_meant_or_refused_by_line(odd: Odd, place: Path) -> None:
    file = place / "list.csv"
    file.write_bytes(odd.content)
    if odd.refused:
        with pytest.raises(UserError, match=re.compile(odd.refused, re.S)) as refusal:
            site_csv(file, CLASSES)
        with pytest.raises(UserError, match=re.escape(str(refusal.value))):
            evaluated(file, CLASSES, None, Skipped())
        with suppress(UserError):  # what is wrong with a label is none of its business
            read_paths(file)
        assert "\0" not in str(refusal.value)
        assert len(str(refusal.value)) < 600 + 4 * len(str(place))
        return
    files = site_csv(file, CLASSES)
    subjects = [subject if files.with_subjects else None for _, _, subject in files.rows]
    found = [(path, CLASSES[label], subject) for (path, label, _), subject in zip(files.rows, subjects, strict=True)]
    assert found == [((place / path).resolve(), label, subject) for path, label, subject in odd.rows]
    assert evaluated(file, CLASSES, None, Skipped()).rows == sorted(files.rows)
    named = read_paths(file)
    assert all((place / path).resolve() == where for path, where in named)
    assert {where for _, where in named} >= {path for path, _, _ in files.rows}


def test_absolute_paths_are_read_as_they_are(place: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"path,label\n{place / 'a.png'},cat\n")
    assert len(load_site_csv(tmp_path / "list.csv", CLASSES, 16, 1)) == 1


def test_no_pipe_and_no_folder_is_a_list(place: Path) -> None:
    for name in ("pipe.png", "sub"):
        with pytest.raises(UserError, match="cannot read the list"):
            site_csv(place / name, CLASSES)
