"""Writes the FileDescriptorSet that an official client's wheel carries to standard output.

usage: descriptors.py DIRECTORY   (holds the wheel)

The generated *_pb2.py hand a bytes literal to AddSerializedFile; the literal is read out of the syntax tree, so nothing
of the wheel is imported or run.
"""

import ast
import pathlib
import sys
import zipfile


def serialized_files(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "AddSerializedFile":
            yield ast.literal_eval(node.args[0])


def varint(n):
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def main():
    for wheel in sorted(pathlib.Path(sys.argv[1]).glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith("_pb2.py"):
                    for file in serialized_files(archive.read(name)):
                        # FileDescriptorSet.file = 1, length-delimited.
                        sys.stdout.buffer.write(b"\x0a" + varint(len(file)) + file)


main()
