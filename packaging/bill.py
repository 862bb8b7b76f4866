"""What the program is made of, as CycloneDX 1.5, and the licences of all of it as text.

usage: bill.py METADATA LOCKFILE BILL LICENCES     (METADATA is what `cargo metadata --filter-platform TARGET` said)

Only what goes into the program: neither what the tests use, nor what runs while it is built.
"""

import hashlib
import json
import pathlib
import re
import sys

# Files in which crates keep their licences and notices.
LICENCE_FILES = re.compile(r"^(licen[cs]e|copying|notice|unlicense|copyright)", re.IGNORECASE)


def shipped(metadata):
    """The ids of the root and of everything that it links, each with what it links itself."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    packages = {package["id"]: package for package in metadata["packages"]}
    macro = {i for i, p in packages.items() if any("proc-macro" in t["kind"] for t in p["targets"])}
    found, waiting = {}, [metadata["resolve"]["root"]]
    while waiting:
        at = waiting.pop()
        if at in found:
            continue
        normal = [d["pkg"] for d in nodes[at]["deps"] if any(k["kind"] is None for k in d["dep_kinds"])]
        found[at] = sorted(d for d in normal if d not in macro)
        waiting.extend(found[at])
    return found, packages


def checksums(lockfile):
    entry = re.compile(r'name = "(.+)"\nversion = "(.+)"\nsource = ".+"\nchecksum = "([0-9a-f]{64})"')
    return {(name, version): checksum for name, version, checksum in entry.findall(lockfile)}


def reference(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, sums):
    entry = {
        "type": "library",
        "bom-ref": reference(package),
        "name": package["name"],
        "version": package["version"],
        "purl": reference(package),
    }
    if package["license"]:
        # Older crates write a slash.
        entry["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if (package["name"], package["version"]) in sums:
        entry["hashes"] = [{"alg": "SHA-256", "content": sums[package["name"], package["version"]]}]
    return entry


def bill(found, packages, root, sums):
    by_name = sorted(found, key=lambda i: (packages[i]["name"], packages[i]["version"]))
    program = component(packages[root], sums) | {"type": "application"}
    depends = [{"ref": reference(packages[i]), "dependsOn": [reference(packages[d]) for d in found[i]]} for i in by_name]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": program},
        "components": [component(packages[i], sums) for i in by_name if i != root],
        "dependencies": depends,
    }


def licences(found, packages, root):
    """Every licence text once, with those that it holds for."""
    listed, texts = [], {}
    for package in sorted((packages[i] for i in found if i != root), key=lambda p: (p["name"], p["version"])):
        title = f"{package['name']} {package['version']}"
        listed.append(f"{title:40} {package['license'] or 'see its licence file'}")
        folder = pathlib.Path(package["manifest_path"]).parent
        for path in sorted(p for p in folder.iterdir() if p.is_file() and LICENCE_FILES.match(p.name)):
            text = path.read_text(encoding="utf-8", errors="replace").strip()
            texts.setdefault(hashlib.sha256(text.encode()).hexdigest(), (text, []))[1].append(title)
    parts = ["FerroMQ is made with these packages, under these licences.\n", "\n".join(listed)]
    for text, titles in texts.values():
        parts.append("\n" + "-" * 100 + "\n" + ", ".join(titles) + "\n\n" + text)
    return "\n".join(parts) + "\n"


def main():
    metadata = json.loads(pathlib.Path(sys.argv[1]).read_text())
    sums = checksums(pathlib.Path(sys.argv[2]).read_text())
    root = metadata["resolve"]["root"]
    found, packages = shipped(metadata)
    pathlib.Path(sys.argv[3]).write_text(json.dumps(bill(found, packages, root, sums), indent=1) + "\n")
    pathlib.Path(sys.argv[4]).write_text(licences(found, packages, root), encoding="utf-8")


main()
