"""The commands, one module per verb or group; `nissl.cli` puts them together.

A command takes what the user wrote, calls one function of the floors and prints. What it needs is imported inside it,
so that `nissl --help` and completion stay quick. A further command is one module here and one line in `nissl.cli`.
"""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON lines, one per event, instead of text.")]
