"""Reads exports with OpenTelemetry's own types, and prints them as JSON with every field that these do not know.

usage: read.py WHEELS DIRECTORY   (of metrics.bin and traces.bin)
"""

import json
import pathlib
import sys
import zipfile

wheels, directory = map(pathlib.Path, sys.argv[1:])
for wheel in wheels.glob("*.whl"):
    # Packages without a file of their own are not found in archives.
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(wheels)
sys.path.insert(0, str(wheels))

from google.protobuf import json_format, unknown_fields  # noqa: E402
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics  # noqa: E402
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces  # noqa: E402


def unknown(message):
    for field in unknown_fields.UnknownFieldSet(message):
        yield f"{message.DESCRIPTOR.full_name} {field.field_number}"
    for descriptor, value in message.ListFields():
        if descriptor.message_type:
            many = hasattr(value, "__len__") and not hasattr(value, "DESCRIPTOR")
            for one in value if many else [value]:
                yield from unknown(one)


read, strange = {}, []
for name, kind in [("metrics", metrics.ExportMetricsServiceRequest), ("traces", traces.ExportTraceServiceRequest)]:
    message = kind.FromString((directory / f"{name}.bin").read_bytes())
    strange += unknown(message)
    read[name] = json_format.MessageToDict(message)
services = [
    metrics.DESCRIPTOR.services_by_name["MetricsService"],
    traces.DESCRIPTOR.services_by_name["TraceService"],
]
read["methods"] = [f"/{service.full_name}/{method.name}" for service in services for method in service.methods]
read["unknown"] = sorted(set(strange))
json.dump(read, sys.stdout)
