"""Reads a page of metrics as Prometheus' own Python client does, or a file of rules, from standard input, as JSON.

usage: read.py page | rules
"""

import json
import sys

import yaml
from prometheus_client.parser import text_string_to_metric_families


def page(text):
    families = []
    for family in text_string_to_metric_families(text):
        samples = [[sample.name, sample.labels, sample.value] for sample in family.samples]
        families.append({"name": family.name, "type": family.type, "help": family.documentation, "samples": samples})
    return families


print(json.dumps({"page": page, "rules": yaml.safe_load}[sys.argv[1]](sys.stdin.read())))
