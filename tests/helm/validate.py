"""Holds rendered manifests against Kubernetes' own types, unknown fields included, and prints them as JSON.

usage: validate.py VERSION...   (manifests on standard input; exit code 1 and the complaints on standard error)

The types that are not Kubernetes' own have their schemas here, as far as the chart uses them.
"""

import json
import sys

import jsonschema
import kubernetes_validate
import yaml

STRING = {"type": "string"}
COUNT = {"type": "integer", "minimum": 0}


def closed(required, **properties):
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


LABELS = {"type": "object", "additionalProperties": STRING}
# https://prometheus-operator.dev/docs/api-reference/api/
FOREIGN = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): closed(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion=STRING,
        kind=STRING,
        metadata=closed(["name"], name=STRING, labels=LABELS, annotations=LABELS),
        spec=closed(
            ["selector", "endpoints"],
            selector=closed(["matchLabels"], matchLabels=LABELS),
            endpoints={"type": "array", "items": closed(["port"], port=STRING, path=STRING, interval=STRING)},
        ),
    ),
    # https://keda.sh/docs/latest/reference/scaledobject-spec/
    ("keda.sh/v1alpha1", "ScaledObject"): closed(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion=STRING,
        kind=STRING,
        metadata=closed(["name"], name=STRING, namespace=STRING, labels=LABELS, annotations=LABELS),
        spec=closed(
            ["scaleTargetRef", "triggers"],
            scaleTargetRef=closed(["name"], apiVersion=STRING, kind=STRING, name=STRING, envSourceContainerName=STRING),
            minReplicaCount=COUNT,
            maxReplicaCount=COUNT,
            idleReplicaCount=COUNT,
            pollingInterval=COUNT,
            cooldownPeriod=COUNT,
            triggers={
                "type": "array",
                "minItems": 1,
                "items": closed(
                    ["type", "metadata"],
                    type={"enum": ["external", "external-push"]},
                    name=STRING,
                    # A map of text: a number without quotes is refused by the cluster.
                    metadata={"type": "object", "required": ["scalerAddress"], "additionalProperties": STRING},
                    metricType={"enum": ["AverageValue", "Value"]},
                ),
            },
        ),
    ),
}


class Strict(yaml.SafeLoader):
    """A key that is there twice is an error, not the last one."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"keys are there twice: {twice}", node.start_mark)
        return super().construct_mapping(node, deep)


def complaints(document, version):
    kind = (document["apiVersion"], document["kind"])
    try:
        if kind in FOREIGN:
            jsonschema.Draft202012Validator(FOREIGN[kind]).validate(document)
        else:
            kubernetes_validate.validate(document, version, strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        yield f"{version}: {kind[1]} {document['metadata']['name']}: {'.'.join(map(str, error.path))}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError as error:
        yield f"{version}: {error.message}"


def main():
    documents = [document for document in yaml.load_all(sys.stdin, Loader=Strict) if document]
    found = [said for version in sys.argv[1:] for document in documents for said in complaints(document, version)]
    for said in found:
        print(said, file=sys.stderr)
    json.dump(documents, sys.stdout)
    return 1 if found else 0


sys.exit(main())
