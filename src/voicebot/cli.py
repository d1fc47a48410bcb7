"""The `voicebot` command."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from contextlib import closing
from importlib import metadata
from pathlib import Path

import voicebot
from voicebot import config
from voicebot.errors import AudioError, VoicebotError

_EXIT_CODES = """\
exit codes: 0 done · 1 doctor found a fault · 2 command line or configuration wrong · 3 recording refused
            4 service or engine can't be reached · 5 the turn failed · 130 interrupted"""
_UNREACHABLE = {"service_unreachable", "engine_unreachable", "engine_unhealthy"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        code: int = options.run(options)
        return code
    except VoicebotError as error:
        print(f"voicebot: {error}", file=sys.stderr)
        return _exit_code(error.as_dict())
    except KeyboardInterrupt:
        print("\nvoicebot: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="voicebot", description=voicebot.__doc__, epilog=_EXIT_CODES, formatter_class=shape
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    configured = argparse.ArgumentParser(add_help=False)
    configured.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        default=config.default_path(),
        help=f"configuration (default: ${config.ENVIRONMENT_VARIABLE} or {config.DEFAULT_PATH})",
    )

    serve = verbs.add_parser("serve", parents=[configured], help="run the service")
    serve.set_defaults(run=_serve)

    ask = verbs.add_parser(
        "ask", help="put a recorded question to a running service", epilog=_EXIT_CODES, formatter_class=shape
    )
    question = ask.add_mutually_exclusive_group(required=True)
    question.add_argument("file", nargs="?", type=Path, metavar="FILE", help="recording, any common format")
    question.add_argument("--sample", action="store_true", help="use the recording inside the package")
    ask.add_argument("--url", default="http://127.0.0.1:8080", help="the service (default: %(default)s)")
    ask.add_argument(
        "--out",
        type=Path,
        default=Path("answer.wav"),
        metavar="FILE",
        help="spoken answer (default: %(default)s)",
    )
    ask.add_argument(
        "--reference", metavar="TEXT", help="what is said in FILE: adds the word error rate to --json"
    )
    ask.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE.json",
        help="write the result; without a file, instead of text",
    )
    ask.set_defaults(run=_ask)

    transcribe = verbs.add_parser(
        "transcribe", parents=[configured], help="print what is said in a recording"
    )
    transcribe.add_argument("file", type=Path, metavar="FILE", help="recording, any common format")
    transcribe.set_defaults(run=_transcribe)

    bench = verbs.add_parser(
        "bench", parents=[configured], help="hold a spoken conversation with itself, and time its stages"
    )
    bench.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="recordings (default: the sample); FILE.txt says its words",
    )
    bench.add_argument("--turns", type=int, default=20, metavar="N", help="(default: %(default)s)")
    bench.add_argument("--json", type=Path, metavar="FILE.json", help="write all figures")
    bench.set_defaults(run=_bench)

    doctor = verbs.add_parser("doctor", parents=[configured], help="examine everything the service needs")
    doctor.set_defaults(run=_doctor)
    return parser


def _serve(options: argparse.Namespace) -> int:
    from voicebot.app import serve

    serve(config.load(options.config))
    return 0


def _ask(options: argparse.Namespace) -> int:
    from voicebot import ask

    if options.json not in (None, "-") and not options.json.endswith(".json"):
        print(
            f"voicebot: --json is {options.json!r}. Rule: it ends in .json. Remedy: rename it.",
            file=sys.stderr,
        )
        return 2
    path, reference = ask.sample() if options.sample else (options.file, options.reference)
    result = ask.ask(path, url=options.url, out=options.out, reference=reference, show=options.json != "-")
    if options.json:
        ask.write_json(result, options.json)
    if not result.error:
        return 0
    print(f"voicebot: {result.error['message']}", file=sys.stderr)
    if path.is_file():
        print(f"Your recording is kept: {path.resolve()}", file=sys.stderr)
    return _exit_code(result.error)


def _transcribe(options: argparse.Namespace) -> int:
    from voicebot.audio import decode
    from voicebot.loading import speech_to_text

    settings = config.load(options.config)
    try:
        with options.file.open("rb") as file:
            recording = decode(file, name=str(options.file), max_seconds=settings.limits.max_audio_seconds)
    except OSError as error:
        raise AudioError(
            "file_unreadable",
            f"{options.file} can't be read: {error.strerror}.",
            rule="a file that you may read.",
            remedy="check the path.",
        ) from error
    with closing(speech_to_text(settings.stt)) as recogniser:
        print(asyncio.run(recogniser.transcribe(recording)))
    return 0


def _bench(options: argparse.Namespace) -> int:
    import json

    from voicebot import ask, bench

    recordings = options.files or [ask.sample()[0]]
    result = asyncio.run(bench.run(config.load(options.config), recordings, max(1, options.turns)))
    print(bench.table(result))
    if options.json:
        options.json.write_text(
            json.dumps(result.summary() | {"each": vars(result)}, indent=1), encoding="utf-8"
        )
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from voicebot.doctor import examine

    well = True
    for name, finding, good in examine(options.config):
        well &= good
        print(f"{'ok' if good else 'FAIL':<5} {name:<15} {finding}", flush=True)
    return 0 if well else 1


def _exit_code(error: dict[str, str]) -> int:
    if error["code"] in _UNREACHABLE:
        return 4
    if error["type"] == AudioError.kind:
        return 3
    return 2 if error["type"] == "config_error" else 5


def _version() -> str:
    try:
        return metadata.version("spark-voicebot")
    except metadata.PackageNotFoundError:
        return "from a source tree"
