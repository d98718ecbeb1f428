"""Counts the parameters of every network by name; run as a program it writes the table anew."""

import json
from pathlib import Path

import nonlocalnn as nl
from nonlocalnn.cli.models import sketch
from nonlocalnn.models import parameters

TABLE = Path(parameters.__file__).with_suffix(".json")


def counted(name):
    return sum(parameter.numel() for parameter in sketch(name).parameters())


if __name__ == "__main__":
    table = {name: counted(name) for name in sorted(nl.list_models())}
    TABLE.write_text(json.dumps(table, indent=0) + "\n", encoding="utf-8")
