"""Amazon's command `aws`, as far as our pages use it: python -m tests.orchestrator.aws_command SERVICE OPERATION ...

Its services, operations, options and their types are those of botocore's models, as they are of the real one's; what it
does not know it refuses. The real one wants a version of botocore that is not ours.
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import boto3
import jmespath
from botocore import xform_name

EVERYWHERE = {"region", "query", "output"}


def main(words: Sequence[str]) -> int:
    service, operation, *rest = words
    own = {("cloudformation", "deploy"): deploy, ("s3", "rm"): remove}.get((service, operation))
    if own is not None:
        own(rest)
        return 0
    given = options(rest)
    client = boto3.client(service, region_name=given.get("region", [None])[0])  # type: ignore[call-overload]
    named = {xform_name(name, "-"): name for name in client.meta.service_model.operation_names}
    if operation not in named:
        return refuse(f"{service} has no operation {operation}")
    model = client.meta.service_model.operation_model(named[operation])
    members = model.input_shape.members if model.input_shape else {}
    known = {xform_name(name, "-"): name for name in members}
    if unknown := set(given) - set(known) - EVERYWHERE:
        return refuse(f"{service} {operation} has no option {', '.join(sorted(unknown))}")
    arguments = {known[name]: value(members[known[name]], said) for name, said in given.items() if name in known}
    answer = client._make_api_call(named[operation], arguments)
    answer.pop("ResponseMetadata", None)
    found = jmespath.search(given["query"][0], answer) if "query" in given else answer
    if given.get("output") == ["text"]:
        print("\t".join(found) if isinstance(found, list) else found)
    elif found:
        print(json.dumps(found, indent=4, default=str))
    return 0


def options(words: Sequence[str]) -> dict[str, list[str]]:
    """Every option with the words behind it."""
    found: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            found[word[2:]] = last = []
        else:
            last.append(word)
    return found


def value(shape: Any, said: list[str]) -> Any:
    """What the words say, in the shape that the service wants."""
    if shape.type_name == "list":
        return [structure(shape.member, one) if shape.member.type_name == "structure" else one for one in said]
    if shape.type_name == "boolean":
        return True
    (one,) = said
    return int(one) if shape.type_name in ("integer", "long") else one


def structure(shape: Any, said: str) -> dict[str, Any]:
    """The command's shorthand: Name=tag-key,Values=a,b"""
    found = {}
    for part in re.split(r",(?=\w+=)", said):
        name, _, text = part.partition("=")
        found[name] = text.split(",") if shape.members[name].type_name == "list" else text
    return found


def deploy(words: Sequence[str]) -> None:
    """A stack that is new."""
    given = options(words)
    (name,), (template,), region = given["stack-name"], given["template-file"], given["region"][0]
    parameters = dict(one.split("=", 1) for one in given["parameter-overrides"])
    cloudformation = boto3.client("cloudformation", region_name=region)
    cloudformation.create_stack(
        StackName=name,
        TemplateBody=Path(template).read_text(encoding="utf-8"),
        Parameters=[{"ParameterKey": key, "ParameterValue": text} for key, text in parameters.items()],
        Capabilities=given["capabilities"],  # type: ignore[arg-type]
    )
    cloudformation.get_waiter("stack_create_complete").wait(StackName=name)


def remove(words: Sequence[str]) -> None:
    """Everything under a prefix."""
    recursive, address = words
    assert recursive == "--recursive"
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    s3 = boto3.client("s3")
    for one in s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", []):
        s3.delete_object(Bucket=bucket, Key=one["Key"])


def refuse(why: str) -> int:
    print(f"aws: {why}", file=sys.stderr)
    return 252


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
