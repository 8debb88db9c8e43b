"""What an account needs: the template on moto, its policy against the calls made, and `halve aws check`."""

import fnmatch
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator import cloud as wiring
from orchestrator.clock import VirtualClock
from orchestrator.deployment import open_providers
from orchestrator.providers.aws import check, contact
from orchestrator.providers.aws.boot import folder
from orchestrator.providers.aws.provider import AwsProvider
from orchestrator.spec import parse
from policies.snapshot import Purchase
from tests.orchestrator import aws_proxy as aws

pytest.importorskip("flask", reason="moto's server needs Flask")

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
TEMPLATE = folder("cloudformation") / "halve.yaml"
#: what EC2 asks for by itself while it launches: our policy has to name it, and no call of ours is called so
IMPLIED = {"ec2:CreateTags", "iam:PassRole", "ssm:GetParameters"}
#: needs no permission
FREE = {"sts:GetCallerIdentity"}


@pytest.fixture(scope="module")
def clock() -> VirtualClock:
    return VirtualClock(NOW)


@pytest.fixture(scope="module")
def cloud(clock: VirtualClock) -> Iterator[aws.Cloud]:
    """An account as AWS hands it over, with prices."""
    with aws.running(clock) as one:
        aws.priced(one, aws.REGION)
        yield one


@pytest.fixture(scope="module")
def stack(cloud: aws.Cloud) -> Iterator[dict[str, str]]:
    """The outputs of the template's stack, which is deleted afterwards, and then nothing of it is left."""
    import boto3

    cfn, ec2 = boto3.client("cloudformation"), boto3.client("ec2")
    (vpc,) = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    cfn.create_stack(
        StackName="halve",
        TemplateBody=TEMPLATE.read_text(),
        Parameters=[
            {"ParameterKey": "VpcId", "ParameterValue": vpc["VpcId"]},
            {"ParameterKey": "WithQueue", "ParameterValue": "yes"},
        ],
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )
    (made,) = cfn.describe_stacks(StackName="halve")["Stacks"]
    assert made["StackStatus"] == "CREATE_COMPLETE"
    yield {one["OutputKey"]: one["OutputValue"] for one in made["Outputs"]}
    s3 = boto3.client("s3")
    bucket = next(one["OutputValue"] for one in made["Outputs"] if one["OutputKey"] == "Bucket")
    for one in s3.list_objects_v2(Bucket=bucket).get("Contents", []):
        s3.delete_object(Bucket=bucket, Key=one["Key"])
    cfn.delete_stack(StackName="halve")
    left = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["halve-replica"]}])
    assert left["SecurityGroups"] == []
    assert boto3.client("iam").list_instance_profiles()["InstanceProfiles"] == []
    assert s3.list_buckets()["Buckets"] == []


def spec_text(bucket: str, **changes: object) -> str:
    section = {"region": aws.REGION, "instance_types": [aws.TYPE], "bucket": bucket, "address": "203.0.113.7"}
    whole = {"name": "ocr", "model": "ppocr", "provider": "aws", "currency": "USD", "aws": {**section, **changes}}
    return json.dumps(whole)


def document(resource: str, region: str = aws.REGION) -> dict[str, Any]:
    """A policy of the stack as IAM has it."""
    import boto3

    iam = boto3.client("iam")
    if resource == "replica":
        said = iam.get_role_policy(RoleName=f"halve-replica-{region}", PolicyName="read-wheels")["PolicyDocument"]
        return dict(said if isinstance(said, dict) else yaml.safe_load(said))  # moto says it in Python's words
    policies = iam.list_policies(Scope="Local")["Policies"]
    (one,) = [one for one in policies if one["PolicyName"] == f"halve-controller-{region}"]
    version = iam.get_policy_version(PolicyArn=one["Arn"], VersionId=one["DefaultVersionId"])
    return dict(version["PolicyVersion"]["Document"])


def actions(policy: dict[str, Any]) -> set[str]:
    found = [one["Action"] for one in policy["Statement"]]
    return {each for one in found for each in ([one] if isinstance(one, str) else one)}


def called(cloud: aws.Cloud) -> set[str]:
    """The calls that were made, as IAM names them."""
    named = {"servicequotas", "pricing", "ec2", "sts", "sqs"}
    found = {f"{service}:{action}" for service, action in cloud.calls if service in named}
    return found | {f"s3:{action.split()[0].title()}Object" for service, action in cloud.calls if service == "s3"}


@pytest.mark.slow
def test_cfn_lint_has_nothing_to_say() -> None:
    pytest.importorskip("cfnlint")
    command = [str(Path(sys.executable).with_name("cfn-lint")), "--regions", "us-east-1", "cn-north-1", "--"]
    ran = subprocess.run([*command, str(TEMPLATE)], capture_output=True, text=True, timeout=120, check=False)
    assert (ran.returncode, ran.stdout.strip()) == (0, "")


def test_a_controller_may_do_what_it_does_and_nothing_else(
    cloud: aws.Cloud, stack: dict[str, str], home: Path, clock: VirtualClock
) -> None:
    wanted = parse(spec_text(stack["Bucket"], queue=stack["Queue"]))
    cloud.calls.clear()
    (rented,) = open_providers(wanted, home, clock).values()
    assert isinstance(rented, AwsProvider)
    rented.offers()
    rented.prices(NOW - timedelta(hours=1))
    for number, purchase in enumerate((Purchase.SPOT, Purchase.ON_DEMAND)):
        request = aws.request(f"life-{number}", aws.offer(purchase=purchase), **wiring.frozen(wanted, home))
        rented.terminate(rented.launch(request))
    rented.instances()
    rented.launch(aws.request("listened", **wiring.frozen(wanted, home)))
    (listened,) = [one for one in rented.instances() if one.token == "listened"]
    contact.console(aws.REGION, aws.bare(listened.provider_id))
    cloud.warn(aws.bare(listened.provider_id))
    (warned,) = [one for one in open_providers(wanted, home, clock)["aws"].instances() if one.token == "listened"]
    assert warned.reclaim_at == NOW + timedelta(seconds=120)  # by the stack's own rule and queue
    moved = parse(spec_text(stack["Bucket"], address="203.0.113.8"))
    open_providers(moved, home, clock)["aws"].launch(aws.request("life-2"))
    wiring.findings(moved, home)
    allowed = document("controller")
    assert called(cloud) - FREE | IMPLIED == actions(allowed)
    assert len(json.dumps(allowed, separators=(",", ":"))) < 6144  # IAM takes no more


EC2 = f"arn:aws:ec2:{aws.REGION}:{aws.ACCOUNT}"
AMI = "parameter/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
HERE, THERE = {"aws:RequestedRegion": aws.REGION}, {"aws:RequestedRegion": "eu-west-1"}
ASKED, OURS = {"aws:RequestTag/halve:installation": "1"}, {"aws:ResourceTag/halve:installation": "1"}
AT_LAUNCH = {"ec2:CreateAction": "RunInstances"}
TO_EC2, TO_LAMBDA = {"iam:PassedToService": "ec2.amazonaws.com"}, {"iam:PassedToService": "lambda.amazonaws.com"}
#: what, of what ({GROUP}, {BUCKET}: the stack's), under which circumstances; whether a controller may
MAY = [
    ("ec2:DescribeInstances", "*", HERE, True),
    ("ec2:DescribeInstances", "*", THERE, False),
    ("pricing:GetProducts", "*", {"aws:RequestedRegion": "us-east-1"}, True),
    ("ec2:RunInstances", f"{EC2}:instance/i-1", ASKED, True),
    ("ec2:RunInstances", f"{EC2}:instance/i-1", {}, False),
    ("ec2:RunInstances", f"{EC2}:volume/vol-1", {}, False),
    ("ec2:RunInstances", f"{EC2}:spot-instances-request/sir-1", ASKED, True),
    ("ec2:RunInstances", f"{EC2}:subnet/subnet-1", {}, True),
    ("ec2:RunInstances", f"arn:aws:ec2:{aws.REGION}::image/ami-1", {}, True),
    ("ec2:RunInstances", f"{EC2}:security-group/{{GROUP}}", {}, True),
    ("ec2:RunInstances", f"{EC2}:security-group/sg-theirs", {}, False),
    ("ec2:CreateTags", f"{EC2}:instance/i-1", AT_LAUNCH, True),
    ("ec2:CreateTags", f"{EC2}:instance/i-theirs", {}, False),
    ("ec2:TerminateInstances", f"{EC2}:instance/i-1", OURS, True),
    ("ec2:TerminateInstances", f"{EC2}:instance/i-theirs", {}, False),
    ("ec2:GetConsoleOutput", f"{EC2}:instance/i-1", OURS, True),
    ("ec2:GetConsoleOutput", f"{EC2}:instance/i-theirs", {}, False),
    ("ec2:AuthorizeSecurityGroupIngress", f"{EC2}:security-group/{{GROUP}}", {}, True),
    ("ec2:AuthorizeSecurityGroupIngress", f"{EC2}:security-group/sg-theirs", {}, False),
    ("ec2:RevokeSecurityGroupIngress", f"{EC2}:security-group/sg-theirs", {}, False),
    ("iam:PassRole", f"arn:aws:iam::{aws.ACCOUNT}:role/halve-replica-{aws.REGION}", TO_EC2, True),
    ("iam:PassRole", f"arn:aws:iam::{aws.ACCOUNT}:role/halve-replica-{aws.REGION}", TO_LAMBDA, False),
    ("iam:PassRole", f"arn:aws:iam::{aws.ACCOUNT}:role/admin", TO_EC2, False),
    ("ssm:GetParameters", f"arn:aws:ssm:{aws.REGION}::{AMI}", {}, True),
    ("ssm:GetParameters", f"arn:aws:ssm:{aws.REGION}:{aws.ACCOUNT}:parameter/password", {}, False),
    ("s3:PutObject", "arn:aws:s3:::{BUCKET}/halve/00ff/halve.whl", {}, True),
    ("s3:PutObject", "arn:aws:s3:::{BUCKET}/theirs", {}, False),
    ("s3:PutObject", "arn:aws:s3:::theirs/halve/x", {}, False),
    ("s3:GetObject", "arn:aws:s3:::{BUCKET}/halve/00ff/halve.whl", {}, False),
    ("sqs:ReceiveMessage", f"arn:aws:sqs:{aws.REGION}:{aws.ACCOUNT}:halve-notices", {}, True),
    ("sqs:DeleteMessage", f"arn:aws:sqs:{aws.REGION}:{aws.ACCOUNT}:theirs", {}, False),
]


def test_what_a_controller_may_do_and_to_what(stack: dict[str, str]) -> None:
    """moto grants everything; here each statement is read as IAM reads it."""
    import boto3

    named = [{"Name": "group-name", "Values": ["halve-replica"]}]
    (group,) = boto3.client("ec2").describe_security_groups(Filters=named)["SecurityGroups"]
    policy = document("controller")
    for action, resource, context, may in MAY:
        place = resource.replace("{GROUP}", group["GroupId"]).replace("{BUCKET}", stack["Bucket"])
        assert granted(policy, action, place, context) is may, (action, place, context)


def granted(policy: dict[str, Any], action: str, resource: str, context: dict[str, str]) -> bool:
    """As far as our statements go: StringEquals and Null.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
    """

    def holds(operator: str, key: str, wanted: str) -> bool:
        if operator == "Null":
            return (key not in context) == (wanted == "true")
        assert operator == "StringEquals"
        return context.get(key) == wanted

    def listed(said: str | list[str]) -> list[str]:
        return [said] if isinstance(said, str) else said

    return any(
        action in listed(one["Action"])
        and any(fnmatch.fnmatchcase(resource, each) for each in listed(one["Resource"]))
        and all(
            holds(operator, key, wanted)
            for operator, pairs in one.get("Condition", {}).items()
            for key, wanted in pairs.items()
        )
        for one in policy["Statement"]
    )


def test_every_statement_is_narrow() -> None:
    """A star stands where a condition stands beside it, or where the service knows neither."""
    text = TEMPLATE.read_text()
    assert text.count('Resource: "*"') == 2
    assert 'Action: "*"' not in text and "ec2:*" not in text
    assert "SecurityGroupIngress:" not in text  # controllers let themselves in, nobody else is


#: what parliament says of the controller's policy, and why it stands
ACCEPTED = {
    "PERMISSIONS_MANAGEMENT_ACTIONS": "iam:PassRole: of one role, to EC2 alone",
    "PRIVILEGE_ESCALATION": "with ec2:RunInstances: that role reads one prefix of one bucket",
    "RESOURCE_MISMATCH": "RunInstances has two statements; AWS's own parameters have no account",
}


@pytest.mark.slow
def test_parliament_knows_every_action_and_condition(stack: dict[str, str]) -> None:
    assert judged(document("replica")) == []
    found = judged(document("controller"))
    assert {issue for issue, _ in found} == {*ACCEPTED}
    lacking = [one["required_format"] for issue, detail in found if issue == "RESOURCE_MISMATCH" for one in detail]
    # between them the two statements have everything that RunInstances wants: nothing is missing twice
    assert len(lacking) == len({*lacking})
    assert [one for one in lacking if "ssm" in one] == ["arn:*:ssm:*:*:parameter/*"]
    wrong = json.dumps(document("controller")).replace("ec2:CreateAction", "ec2:CreatedBy")
    assert "UNKNOWN_CONDITION_FOR_ACTION" in {issue for issue, _ in judged(json.loads(wrong))}


def judged(policy: dict[str, Any]) -> list[tuple[str, Any]]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.infra.parliament_says"]
    ran = subprocess.run(command, input=json.dumps(policy), capture_output=True, text=True, timeout=120, check=True)
    return [(issue, detail) for issue, detail in json.loads(ran.stdout)]


def test_a_machine_may_read_its_wheels_and_nothing_else(stack: dict[str, str]) -> None:
    policy = document("replica")
    assert actions(policy) == {"s3:GetObject"}
    assert [one["Resource"] for one in policy["Statement"]] == [f"arn:aws:s3:::{stack['Bucket']}/halve/*"]


def test_the_wheel_of_a_launch_lies_in_the_bucket(stack: dict[str, str], home: Path, clock: VirtualClock) -> None:
    import boto3

    wanted = parse(spec_text(stack["Bucket"]))
    (rented,) = open_providers(wanted, home, clock).values()
    frozen = wiring.frozen(wanted, home)
    for name in ("wheel-1", "wheel-2"):  # the second time it is there
        rented.launch(aws.request(name, **frozen))
    wheel = frozen["aws"]["wheel"]
    content = boto3.client("s3").get_object(Bucket=stack["Bucket"], Key=wheel["key"])["Body"].read()
    assert hashlib.sha256(content).hexdigest() == wheel["sha256"]


def run(home: Path, tmp_path: Path, text: str) -> tuple[int, list[dict[str, Any]]]:
    from typer.testing import CliRunner

    from orchestrator.cli import app

    path = tmp_path / "ocr.yaml"
    path.write_text(text)
    ran = CliRunner().invoke(app, ["aws", "check", str(path), "--json"], env={"HALVE_HOME": str(home)})
    return ran.exit_code, json.loads(ran.stdout)


def test_an_account_that_is_ready(cloud: aws.Cloud, stack: dict[str, str], home: Path, tmp_path: Path) -> None:
    cloud.refusals.clear()
    before = len(cloud.alive())
    code, found = run(home, tmp_path, spec_text(stack["Bucket"]))
    assert (code, [one for one in found if one["remedy"]]) == (0, [])
    assert {"account", "subnets", "types", "group", "launch", "let in", "let nobody else in", "listing", "bucket"} <= {
        one["what"] for one in found
    }
    assert len(cloud.alive()) == before  # nothing was started


#: the whole command: who asks and what for are known
ATTACH = (
    "aws iam attach-user-policy --user-name moto --policy-arn "
    f"arn:aws:iam::{aws.ACCOUNT}:policy/halve-controller-{aws.REGION}"
)
MISSING = [
    ("a stack", {"stack": "another"}, None, "group", "cloudformation deploy"),
    ("subnets", {"subnets": ["subnet-0"]}, None, "subnets", "aws.subnets"),
    ("a type", {"instance_types": ["g4dn.xlarge", "m5.large"]}, None, "types", "aws.instance_types"),
    ("a bucket", {"bucket": "nobodys"}, None, "bucket", "aws.bucket"),
    ("a queue", {"queue": f"https://sqs.{aws.REGION}.amazonaws.com/1/none"}, None, "queue", "WithQueue=yes"),
    ("who we are", {}, ("GetCallerIdentity", "InvalidClientTokenId"), "account", "aws configure"),
    ("a permission to launch", {}, ("RunInstances", "UnauthorizedOperation"), "launch", ATTACH),
    ("a permission to look", {}, ("DescribeInstances", "UnauthorizedOperation"), "listing", ATTACH),
    ("a permission to let in", {}, ("AuthorizeSecurityGroupIngress", "UnauthorizedOperation"), "let in", ATTACH),
    ("one to let out", {}, ("RevokeSecurityGroupIngress", "UnauthorizedOperation"), "let nobody else in", ATTACH),
    ("a permission to see the group", {}, ("DescribeSecurityGroups", "UnauthorizedOperation"), "group", ATTACH),
    ("a role for machines", {}, ("RunInstances", "InvalidParameterValue"), "launch", "cloudformation deploy"),
]


@pytest.mark.parametrize(
    ("changes", "refused", "what", "remedy"), [r[1:] for r in MISSING], ids=[r[0] for r in MISSING]
)
def test_an_account_that_lacks(
    cloud: aws.Cloud,
    stack: dict[str, str],
    home: Path,
    tmp_path: Path,
    changes: dict[str, object],
    refused: tuple[str, str] | None,
    what: str,
    remedy: str,
) -> None:
    cloud.refusals.clear()
    if refused is not None:
        cloud.refuse(*refused, 403, times=9)
    code, found = run(home, tmp_path, spec_text(**{"bucket": stack["Bucket"], **changes}))  # type: ignore[arg-type]
    cloud.refusals.clear()
    bad = [one for one in found if one["remedy"] and one["stops"]]
    assert (code, [one["what"] for one in bad]) == (1, [what])
    assert remedy in bad[0]["remedy"]
    if refused is not None:
        assert refused[0] in bad[0]["said"] or refused[1] in bad[0]["said"]


def test_a_quota_of_nothing_says_how_to_ask_for_more(
    cloud: aws.Cloud, stack: dict[str, str], home: Path, tmp_path: Path
) -> None:
    cloud.refusals.clear()
    cloud.quotas["L-3819A6DF"] = 0
    code, found = run(home, tmp_path, spec_text(stack["Bucket"]))
    cloud.quotas.clear()
    (quota,) = [one for one in found if one["remedy"]]
    assert code == 0 and "--quota-code L-3819A6DF --desired-value 4" in quota["remedy"]


@pytest.mark.parametrize(
    ("call", "what"), [("GetServiceQuota", "quota spot g4dn.xlarge"), ("GetProducts", "price g4dn.xlarge")]
)
def test_a_permission_that_nothing_hangs_on_is_told_and_no_more(
    cloud: aws.Cloud, stack: dict[str, str], home: Path, tmp_path: Path, call: str, what: str
) -> None:
    cloud.refusals.clear()
    cloud.refuse(call, "AccessDeniedException", 400, times=99)
    code, found = run(home, tmp_path, spec_text(stack["Bucket"]))
    cloud.refusals.clear()
    (one,) = [one for one in found if one["what"] == what]
    assert (code, one["said"], one["remedy"]) == (0, f"no permission to {call}", ATTACH)


@pytest.mark.parametrize(
    ("arn", "said"),
    [
        ("arn:aws-cn:iam::1:user/ops/ann", "attach-user-policy --user-name ann --policy-arn arn:aws-cn:iam::1:policy/"),
        (
            "arn:aws:sts::1:assumed-role/runner/i-1",
            "attach-role-policy --role-name runner --policy-arn arn:aws:iam::1:",
        ),
        ("arn:aws:iam::1:root", "attach the policy arn:aws:iam::1:policy/halve-controller-us-east-1 to arn:aws:iam::1"),
    ],
    ids=["a user of a path in China", "a role", "root"],
)
def test_the_policy_is_attached_to_who_asks(arn: str, said: str) -> None:
    assert said in check.attaching(aws.settings(), aws.REGION, arn)


def test_a_second_region_reads_the_first_ones_bucket(cloud: aws.Cloud, stack: dict[str, str], home: Path) -> None:
    """A spec names one bucket, and a machine's role may read one."""
    import boto3

    there = "eu-west-1"
    aws.priced(cloud, there)
    spec = parse(spec_text(stack["Bucket"], region=[aws.REGION, there]))
    (group,) = [one for one in wiring.findings(spec, home) if one.region == there and one.what == "group"]
    said = dict(word.split("=") for word in group.remedy.split("--parameter-overrides ")[1].split())
    assert said["WheelBucket"] == stack["Bucket"] and said["VpcId"].startswith("vpc-")
    cfn = boto3.client("cloudformation", region_name=there)
    cfn.create_stack(
        StackName="halve",
        TemplateBody=TEMPLATE.read_text(),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in said.items()],
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )
    try:
        role = document("replica", there)
        assert [one["Resource"] for one in role["Statement"]] == [f"arn:aws:s3:::{stack['Bucket']}/halve/*"]
        (puts,) = [one for one in document("controller", there)["Statement"] if one["Action"] == "s3:PutObject"]
        assert puts["Resource"] == f"arn:aws:s3:::{stack['Bucket']}/halve/*"
        assert [one["Name"] for one in boto3.client("s3").list_buckets()["Buckets"]] == [stack["Bucket"]]
        missing = [one.what for one in wiring.findings(spec, home) if one.region == there and one.remedy and one.stops]
        assert missing == []
    finally:
        cfn.delete_stack(StackName="halve")
