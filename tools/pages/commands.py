"""Run, publish, check and build the pages; works from any folder.

python tools/pages run 01 --profile mini     source -> _build/executed/mini/01_*.ipynb
python tools/pages publish                   executed mini pages -> notebooks/*.ipynb, with outputs
python tools/pages build                     strict book build -> _build/html
python tools/pages slides 03                 notebooks/03_*.ipynb -> _build/slides/03_*.html, to be shown in class
python tools/pages check                     the project's rules for notebooks/*.ipynb
python tools/pages verify                    check, then run again and compare with the committed outputs
python tools/pages prepare --profile smoke   download what the pages need at full scale; say what is missing
python tools/pages compare FOLDER            outputs of executed pages against the references of their device
python tools/pages collect FOLDER            write those references: notebooks/references/
python tools/pages ref v0.2.0                badges and install cells of all pages and assignments at that tag or branch
python tools/pages address URL               another address of the repository, and of the book, in all files
python tools/pages ceilings                  lower notebooks/ceilings.yml to what the pages show now
python tools/pages measure 03                notebooks/measured.yml -> measured.json: numbers that no page prints
python tools/pages pictures                  the README's picture and the diagram of the method -> book/_static
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import yaml

from dtta.cli import explanation
from dtta.cli.options import Parser, whole
from tools.pages import address as addresses
from tools.pages import book, limits, references
from tools.pages.check import check_folder, check_page
from tools.pages.editions import put_outputs
from tools.pages.project import PROFILES, PageError, Project, clean, write
from tools.pages.run import CHECKOUT, build_font_cache, run_and_compare, run_page


def run(project: Project, args: argparse.Namespace) -> None:
    extra = dict(_pair(text) for text in args.parameter)
    out = (args.out or project.build / "executed" / args.profile).resolve()
    if out in (project.notebooks, project.sources):
        raise PageError("a page never runs in place: choose another --out, then publish")
    names = project.pages(args.names)
    values = {name: project.settings(name, args.profile, extra) for name in names}  # report wrong settings first
    out.mkdir(parents=True, exist_ok=True)
    build_font_cache()
    with ThreadPoolExecutor(args.jobs) as pool:
        failures = list(pool.map(lambda name: run_page(project, name, args.profile, values[name], out), names))
    _stop_at([failure for failure in failures if failure])


def _pair(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not equals:
        raise PageError(f"-p takes key=value, got {text!r}")
    return key, yaml.safe_load(value)


def _stop_at(problems: list[str]) -> None:
    if problems:
        raise PageError("\n".join(problems))


def publish(project: Project, args: argparse.Namespace) -> None:
    names = project.pages(args.names)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            folder_of_outputs = project.notebooks if args.text else project.build / "executed" / "mini"
            executed = folder_of_outputs / f"{name}.ipynb"
            if not executed.exists():
                raise PageError(f"{name}: no executed notebook; first: python tools/pages run {name}")
            write(_with_present_text(project, name, executed), Path(folder, f"{name}.ipynb"))
        pages = [Path(folder, f"{name}.ipynb") for name in names]
        _stop_at([problem for page in pages for problem in check_page(project, page, committed=True)])
        for page in pages:
            shutil.copyfile(page, project.notebooks / page.name)
            print(f"notebooks/{page.name}")


def _with_present_text(project: Project, name: str, executed: Path) -> nbformat.NotebookNode:
    """Return an executed notebook with the text and tags that its source has now, if the code is still the same."""
    ran = clean(nbformat.read(executed, as_version=4))
    page = project.generate(name)
    return clean(page) if put_outputs(page, ran) else ran


def ref(project: Project, args: argparse.Namespace) -> None:
    from dtta.course.staff import build, source  # nbgrader is slow to import

    if not re.fullmatch(r"[\w][\w./-]*", args.ref):
        raise PageError(f"{args.ref!r} is not a tag or branch")
    settings = project.root / "pyproject.toml"
    text = settings.read_text(encoding="utf-8")
    text, found = re.subn(r'^colab-ref = ".*"$', f'colab-ref = "{args.ref}"', text, flags=re.MULTILINE)
    if found != 1:
        raise PageError("pyproject.toml has no line colab-ref = ...")
    settings.write_text(text, encoding="utf-8")
    kept = True  # outputs
    publish(Project(project.root), argparse.Namespace(names=[], text=kept))
    if (project.root / source.FOLDER).is_dir():
        with tempfile.TemporaryDirectory() as folder:
            for path in build.publish(project.root, Path(folder), build.build(project.root, Path(folder))):
                print(f"notebooks/assignments/{path.name}")


def build(project: Project, args: argparse.Namespace) -> None:
    notebooks = project.notebooks if args.committed else project.build / "executed" / "mini"
    html = book.build(project, notebooks, (args.out or project.build).resolve())
    print(f"the book: {html / 'index.html'}")
    if note := addresses.note(project):
        print(f"note: {note}")


def slides(project: Project, args: argparse.Namespace) -> None:
    from tools.pages.slides import build

    print(*build(project, project.pages(args.names), args.out or project.build / "slides"), sep="\n")


def check(project: Project, args: argparse.Namespace) -> None:
    _stop_at(check_folder(project, args.folder or project.notebooks))
    print("check: no problems")


def verify(project: Project, args: argparse.Namespace) -> None:
    _stop_at(check_folder(project, project.notebooks))
    build_font_cache()
    if not run_and_compare([project.notebooks / f"{name}.ipynb" for name in project.pages(args.names)], args.jobs):
        raise PageError("a fresh run does not give the committed outputs (see above)")


def compare(project: Project, args: argparse.Namespace) -> None:
    _stop_at(references.compare(args.folder, args.references or project.notebooks / "references"))
    print("the pages agree with their references")


def prepare(project: Project, args: argparse.Namespace) -> None:
    from tools.pages.prepare import prepare as get  # loads torch

    _stop_at(get(project, project.pages(args.names), args.profile))
    print("nothing is missing")


def collect(project: Project, args: argparse.Namespace) -> None:
    print(*references.collect(args.folder, args.references or project.notebooks / "references"), sep="\n")


def address(project: Project, args: argparse.Namespace) -> None:
    changed = addresses.change(project, args.url, args.book)
    _stop_at(list(addresses.problems(Project(project.root))))
    print(f"{len(changed)} files name {args.url}")


def ceilings(project: Project, args: argparse.Namespace) -> None:
    print("\n".join(limits.lower(project)) or "no ceiling can be lowered")


def measure(project: Project, args: argparse.Namespace) -> None:
    from tools.pages import measured  # loads matplotlib

    for name in project.pages(args.names):
        measured.measure(project, name)


def pictures(project: Project, args: argparse.Namespace) -> None:
    from tools.pages.pictures import draw  # loads torch and matplotlib, which the other commands do not need

    print(*draw(project.root / "book" / "_static"), sep="\n")


def parser() -> Parser:
    parser = Parser(
        prog="python tools/pages", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=CHECKOUT, help="the checkout (default: this one)")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(function, help: str, names: bool = False, jobs: bool = False) -> Parser:
        sub = commands.add_parser(function.__name__, help=help)
        sub.set_defaults(function=function)
        if names:
            sub.add_argument("names", nargs="*", metavar="PAGE", help="01 or 01_name; none: all pages")
        if jobs:
            sub.add_argument("--jobs", type=whole(1), default=2, help="pages at a time (default: 2)")
        return sub

    sub = command(run, "run pages from their sources", names=True, jobs=True)
    sub.add_argument("--profile", choices=PROFILES, default="mini")
    sub.add_argument("-p", dest="parameter", action="append", default=[], metavar="KEY=VALUE", help="set a parameter")
    sub.add_argument("--out", type=Path, help="folder for the notebooks (default: _build/executed/PROFILE)")
    sub = command(publish, "put executed mini pages into notebooks/", names=True)
    sub.add_argument("--text", action="store_true", help="only prose, tags or comments changed: keep committed outputs")
    sub = command(build, "build the book strictly into _build/html")
    sub.add_argument("--committed", action="store_true", help="with notebooks/*.ipynb, not the last run")
    sub.add_argument("--out", type=Path, help="folder for site/ and html/ (default: _build)")
    sub = command(slides, "make the decks of slides of published pages", names=True)
    sub.add_argument("--out", type=Path, help="folder of the decks (default: _build/slides)")
    sub = command(check, "check notebooks that ran")
    sub.add_argument("folder", type=Path, nargs="?", help="default: notebooks")
    command(verify, "check, then run again and compare with the committed outputs", names=True, jobs=True)
    sub = command(prepare, "download what pages need at full scale, and say what is missing", names=True)
    sub.add_argument("--profile", choices=PROFILES[1:], default="full")
    for function, text in ((compare, "compare outputs with the references"), (collect, "write the references")):
        sub = command(function, text)
        sub.add_argument("folder", type=Path, help="the notebooks of a run, such as _build/executed/full")
        sub.add_argument("--references", type=Path, help="folder of the references (default: notebooks/references)")
    sub = command(ref, "pages and assignments open on Colab, and install dtta there, at a tag or branch")
    sub.add_argument("ref", help="such as v0.2.0 for a release, or main")
    sub = command(address, "give all files the address of another repository, such as a fork")
    sub.add_argument("url", metavar="URL", help="https://github.com/OWNER/NAME")
    sub.add_argument("--book", metavar="URL", help="where the book will be (default: https://OWNER.github.io/NAME)")
    command(ceilings, "lower the ceilings of pages that are to be rewritten")
    command(measure, "compute the numbers of the prose that no page prints", names=True)
    command(pictures, "draw the README's picture from the stored results, and the diagram of the method")
    return parser


def execute(arguments: list[str] | None = None) -> None:
    """Run a command. Raises ValueError: wrong options; PageError: what is wrong with the pages; OSError."""
    args = parser().parse_args(arguments)
    args.function(Project(args.root), args)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; exit with status 2 after an error of the user."""
    try:
        execute(arguments)
    except (PageError, ValueError, OSError) as error:
        print(str(error) if isinstance(error, PageError) else explanation(error), file=sys.stderr)
        sys.exit(2)
