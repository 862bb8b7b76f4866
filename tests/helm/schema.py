"""Tries what values.schema.json refuses: a value of a wrong type in each place of values.yaml, and a key that nobody knows
in each map. Prints as JSON the places that were taken, and how many were tried.

usage: schema.py CHART
"""

import copy
import json
import pathlib
import sys

import jsonschema
import yaml

WRONG = {dict: 7, list: 7, str: [7], bool: "maybe", int: "many"}


def places(value, path=()):
    yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))


def with_at(values, path, wrong):
    changed = copy.deepcopy(values)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = wrong
    return changed


def main():
    chart = pathlib.Path(sys.argv[1])
    values = yaml.safe_load((chart / "values.yaml").read_text())
    schema = json.loads((chart / "values.schema.json").read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert validator.is_valid(values)
    types, keys, tried = [], [], 0
    for path, value in places(values):
        if path and type(value) in WRONG:
            tried += 1
            if validator.is_valid(with_at(values, path, WRONG[type(value)])):
                types.append(".".join(path))
        if isinstance(value, dict):
            tried += 1
            if validator.is_valid(with_at(values, (*path, "nobodyKnowsThis"), "x")):
                keys.append(".".join(path))
    print(json.dumps({"types": types, "keys": keys, "tried": tried}))


main()
