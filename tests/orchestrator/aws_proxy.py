"""An AWS for tests: moto's HTTP server behind a small proxy that tells what moto does not, or tells wrongly.

The same process holds both, so that the proxy can do to a machine what AWS does and no API offers.
"""

import base64
import hashlib
import io
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode
from xml.sax.saxutils import escape

from orchestrator.clock import Clock
from orchestrator.providers import Listed, Request
from orchestrator.providers.aws.notices import WARNING
from orchestrator.providers.aws.provider import AwsProvider
from orchestrator.providers.aws.settings import Installation, Settings
from policies.snapshot import Offer, Purchase

ACCOUNT = "123456789012"
REGION = "us-east-1"
TYPE = "g4dn.xlarge"
SPOT_PAGE = 2
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)  # in force since then is in force since ever


@dataclass(kw_only=True)
class Refusal:
    """An error to come. `after`: the call takes effect first."""

    action: str
    code: str
    status: int = 400
    after: bool = False
    times: int = 1


@dataclass(kw_only=True)
class Life:
    """What a bill depends on, as it happened."""

    token: str
    spot: bool
    launched_at: datetime
    ended_at: datetime | None = None
    taken_back: bool = False


@dataclass
class Cloud:
    """What the proxy adds to moto, and how a test sets it."""

    clock: Clock
    url: str = ""
    refusals: list[Refusal] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)  # (service, action), as they came
    hidden: set[str] = field(default_factory=set)  # instances that are not listed yet
    page: int = 0  # instances on one page; 0: as moto likes
    #: (zone, type) -> (moment, price), oldest first
    spot_prices: dict[tuple[str, str], list[tuple[datetime, str]]] = field(default_factory=dict)
    #: (type or volume kind, region) -> products of the price list
    products: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)
    quotas: dict[str, float] = field(default_factory=dict)
    consoles: dict[str, Path] = field(default_factory=dict)  # instance -> what it has said
    dry: set[str] = field(default_factory=set)  # zones that have no machine left
    lives: dict[str, Life] = field(default_factory=dict)  # by instance
    sent: list[dict[str, str]] = field(default_factory=list)  # every RunInstances, as it came
    _answers: dict[str, tuple[dict[str, str], bytes]] = field(default_factory=dict)  # by client token
    _requests: dict[str, dict[str, Any]] = field(default_factory=dict)  # spot requests by instance
    _alone: threading.RLock = field(default_factory=threading.RLock)

    def refuse(self, action: str, code: str, status: int = 400, *, after: bool = False, times: int = 1) -> None:
        self.refusals.append(Refusal(action=action, code=code, status=status, after=after, times=times))

    def price(self, kind: str, region: str, amount: str, currency: str = "USD") -> None:
        """A product of the price list, in force since long ago."""
        dimension = {"unit": "Hrs", "pricePerUnit": {currency: amount}}
        term = {"effectiveDate": f"{LONG_AGO:%Y-%m-%dT%H:%M:%SZ}", "priceDimensions": {"SKU.T.D": dimension}}
        self.products.setdefault((kind, region), []).append({"terms": {"OnDemand": {"SKU.T": term}}})

    def instance(self, instance_id: str, region: str = REGION) -> Any:
        """moto's own object."""
        from moto.ec2.models import ec2_backends

        return ec2_backends[ACCOUNT][region].get_instance(instance_id)

    def take_back(self, instance_id: str, region: str = REGION) -> None:
        """As EC2 interrupts a spot machine."""
        with self._alone:
            self._end(instance_id, region, "Server.SpotInstanceTermination", "Spot instance termination")
            request = self._requests[instance_id]
            request["code"], request["at"] = "instance-terminated-no-capacity", self.lives[instance_id].ended_at

    def announce(self, instance_id: str) -> None:
        """As EC2 marks the request of a spot machine that it will take back."""
        request = self._requests[instance_id]
        request["code"], request["at"] = "marked-for-termination", self._now()

    def warn(self, instance_id: str, region: str = REGION, kind: str = WARNING) -> None:
        """As EventBridge hears of it, which is not what the request or the machine say. moto lets us speak as EC2."""
        import boto3

        detail = {"instance-id": instance_id, "instance-action": "terminate"}
        entry = {"Source": "aws.ec2", "DetailType": kind, "Detail": json.dumps(detail), "Time": self._now()}
        before = len(self.calls)
        boto3.client("events", region_name=region).put_events(Entries=[entry])
        del self.calls[before:]  # nobody's call but the test's

    def shut_down(self, instance_id: str, region: str = REGION) -> None:
        """As a machine that switches itself off, with terminate as its behaviour."""
        self._end(instance_id, region, "Client.InstanceInitiatedShutdown", "Instance initiated shutdown")

    def stop(self, instance_id: str, region: str = REGION) -> None:
        one = self.instance(instance_id, region)
        one._state.name, one._state.code = "stopped", 80
        one._reason = f"User initiated ({self._now():%Y-%m-%d %H:%M:%S} GMT)"

    def start(self, instance_id: str, region: str = REGION) -> None:
        one = self.instance(instance_id, region)
        one._state.name, one._state.code, one._reason = "running", 16, ""
        one.launch_time = self._now()

    def alive(self, region: str = REGION) -> list[Any]:
        """Those that cost money now."""
        return [one for one in self._machines(region) if one._state.name in ("pending", "running")]

    def of_token(self, token: str, region: str = REGION) -> str:
        """The id of the machine that was launched by a token."""
        (found,) = [one.id for one in self._machines(region) if one.client_token == token]
        return str(found)

    def subnet(self, zone: str) -> str:
        """The default one of a zone."""
        from moto.ec2.models import ec2_backends

        return str(ec2_backends[ACCOUNT][zone[:-1]].get_default_subnets()[zone].id)

    def _now(self) -> datetime:
        """EC2 tells whole seconds, and bills them."""
        return self.clock.now().replace(microsecond=0)

    def _machines(self, region: str) -> list[Any]:
        from moto.ec2.models import ec2_backends

        return list(ec2_backends[ACCOUNT][region].all_instances())

    def _end(self, instance_id: str, region: str, code: str, message: str) -> None:
        from moto.ec2.models.instances import StateReason

        one = self.instance(instance_id, region)
        one._state.name, one._state.code, one._reason = "terminated", 48, ""
        self.lives[instance_id].ended_at = self._now()
        self.lives[instance_id].taken_back = code == "Server.SpotInstanceTermination"
        one.state_reason = StateReason(message, code)

    # what follows is the proxy

    def answer(self, app: Callable[..., Iterable[bytes]], environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        scope = re.search(r"Credential=[^/]+/\d+/([^/]+)/([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
        region, service = scope.groups() if scope else ("", "")
        form = dict(parse_qsl(body.decode("latin-1"))) if service in ("ec2", "sts", "iam") else {}
        target = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
        action = form.get("Action") or target or f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        self.calls.append((service, action))
        if service == "cloudformation":
            body = _without_no_value(body)
        if action == "RunInstances" and self._zone(region, form) in self.dry:
            return _refused(start, service, "InsufficientInstanceCapacity", 500)
        refusal = self._refusal(action)
        if refusal is not None and not refusal.after:
            return _refused(start, service, refusal.code, refusal.status)
        with self._alone:
            said = self._own(service, action, region, form, body)
            if said is None:
                said = self._moto(app, environ, action, region, form, body)
        if refusal is not None:
            return _refused(start, service, refusal.code, refusal.status)
        status, headers, content = said
        start(status, headers)
        return [content]

    def _zone(self, region: str, form: dict[str, str]) -> str:
        """Where a launch would land; "" outside the default subnets."""
        from moto.ec2.models import ec2_backends

        subnets = ec2_backends[ACCOUNT][region].get_default_subnets()
        wanted = form.get("NetworkInterface.1.SubnetId")
        return next((zone for zone, one in subnets.items() if one.id == wanted), "")

    def _refusal(self, action: str) -> Refusal | None:
        for one in self.refusals:
            if one.action == action and one.times > 0:
                one.times -= 1
                return one
        return None

    def _own(
        self, service: str, action: str, region: str, form: dict[str, str], body: bytes
    ) -> tuple[str, list[tuple[str, str]], bytes] | None:
        if service == "pricing" and action == "GetProducts":
            asked = {one["Field"]: one["Value"] for one in json.loads(body)["Filters"]}
            kind = asked.get("instanceType") or asked["volumeApiName"]
            return _json({"PriceList": [json.dumps(one) for one in self.products.get((kind, asked["regionCode"]), [])]})
        if service == "servicequotas" and action == "GetServiceQuota":
            code = json.loads(body)["QuotaCode"]
            if code not in self.quotas:
                return _json({"__type": "NoSuchResourceException", "message": "no such quota"}, "400 Bad Request")
            return _json({"Quota": {"QuotaCode": code, "Value": self.quotas[code]}})
        if action == "DescribeInstanceTypeOfferings" and region.startswith("cn-"):  # moto has none in China
            items = "".join(
                f"<item><instanceType>{TYPE}</instanceType><location>{region}{zone}</location></item>" for zone in "ab"
            )
            return _xml(action, f"<instanceTypeOfferingSet>{items}</instanceTypeOfferingSet>")
        if action == "TerminateInstances":
            # AWS says yes however often; moto stumbles over the network interface that went with the first time
            asked_for = {value for name, value in form.items() if name.startswith("InstanceId")}
            over = {one.id for one in self._machines(region) if one._state.name == "terminated"}
            return _xml(action, "<instancesSet/>") if asked_for <= over else None
        if action == "GetConsoleOutput":
            said = self.consoles.get(form["InstanceId"])
            output = base64.b64encode(said.read_bytes() if said and said.exists() else b"").decode()
            return _xml(action, f"<instanceId>{form['InstanceId']}</instanceId><output>{output}</output>")
        if action == "DescribeSpotPriceHistory":
            return _xml(action, self._spot_history(form))
        if action == "DescribeSpotInstanceRequests":
            return _xml(action, self._spot_requests(form))
        return None

    def _moto(
        self,
        app: Callable[..., Iterable[bytes]],
        environ: dict[str, Any],
        action: str,
        region: str,
        form: dict[str, str],
        body: bytes,
    ) -> tuple[str, list[tuple[str, str]], bytes]:
        if action == "RunInstances":
            self.sent.append(form)
            token = f"{region}/{form.get('ClientToken', '')}"
            if token in self._answers:
                before, answer = self._answers[token]
                if before != form:
                    return _error("IdempotentParameterMismatch")
                return "200 OK", [("Content-Type", "text/xml")], answer
        if action == "DescribeInstances" and self.page:
            body = urlencode({**form, "MaxResults": str(self.page)}).encode()
        said: list[Any] = []
        environ = {**environ, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        content = b"".join(app(environ, lambda status, headers, *_: said.extend((status, headers))))
        if said[0].startswith("200"):
            if action == "RunInstances":
                self._launched(region, form, content)
                self._answers[token] = form, content
            elif action == "TerminateInstances":
                for name, instance_id in form.items():
                    if name.startswith("InstanceId"):
                        self._ended(region, instance_id)
            elif action == "DescribeInstances" and self.hidden:
                content = self._without_hidden(content)
                said[1] = [(name, value) for name, value in said[1] if name.lower() != "content-length"]
        return said[0], said[1], content

    def _launched(self, region: str, form: dict[str, str], content: bytes) -> None:
        launched_at = self._now()  # once: a clock that runs too fast may be seconds later at the second look
        now = launched_at.replace(tzinfo=None)
        for found in re.findall(rb"<instanceId>(i-[0-9a-f]+)</instanceId>", content):
            one = self.instance(found.decode(), region)
            one.launch_time = now
            for nic in one.nics.values():
                nic.attach_time = now
                # each its own, and on loopback: whoever looks for it shall not look outside
                nic.public_ip = str(ip_address(0x7F000000 | int(one.id[2:8], 16)))
            for volume in one.block_device_mapping.values():
                volume.attach_time = now
            spot = form.get("InstanceMarketOptions.MarketType") == "spot"
            self.lives[one.id] = Life(token=form["ClientToken"], spot=spot, launched_at=launched_at)
            if spot:
                self._requests[one.id] = {"code": "fulfilled", "at": launched_at, "tags": _tags(form)}

    def _ended(self, region: str, instance_id: str) -> None:
        life = self.lives[instance_id]
        life.ended_at = life.ended_at or self._now()
        self.instance(instance_id, region)._reason = f"User initiated ({life.ended_at:%Y-%m-%d %H:%M:%S} GMT)"

    def _without_hidden(self, content: bytes) -> bytes:
        text = content.decode()
        for instance_id in self.hidden:
            pattern = rf"<item>\s*<reservationId>(?:(?!<reservationId>).)*?<instanceId>{instance_id}</instanceId>"
            found = re.search(pattern, text, re.S)
            if found:
                end = text.find("<reservationId>", found.end())
                stop = text.rfind("<item>", 0, end) if end >= 0 else text.find("</reservationSet>", found.end())
                text = text[: found.start()] + text[stop:]
        return text.encode()

    def _spot_history(self, form: dict[str, str]) -> str:
        since = datetime.fromisoformat(form["StartTime"]) if "StartTime" in form else self._now()
        types = {value for name, value in form.items() if name.startswith("InstanceType.")}
        rows = []
        for (zone, kind), moves in self.spot_prices.items():
            if types and kind not in types:
                continue
            before = [move for move in moves if move[0] <= since][-1:]  # AWS tells the one in force then, too
            rows += [(at, zone, kind, amount) for at, amount in (*before, *(move for move in moves if move[0] > since))]
        rows.sort(reverse=True)  # newest first
        start = int(form.get("NextToken", 0))
        items = "".join(
            f"<item><instanceType>{kind}</instanceType><productDescription>Linux/UNIX</productDescription>"
            f"<spotPrice>{amount}</spotPrice><timestamp>{at:%Y-%m-%dT%H:%M:%S.000Z}</timestamp>"
            f"<availabilityZone>{zone}</availabilityZone></item>"
            for at, zone, kind, amount in rows[start : start + SPOT_PAGE]
        )
        more = start + SPOT_PAGE if start + SPOT_PAGE < len(rows) else ""
        return f"<spotPriceHistorySet>{items}</spotPriceHistorySet><nextToken>{more}</nextToken>"

    def _spot_requests(self, form: dict[str, str]) -> str:
        name, value = form.get("Filter.1.Name", "").removeprefix("tag:"), form.get("Filter.1.Value.1")
        items = "".join(
            f"<item><spotInstanceRequestId>sir-{instance_id[2:10]}</spotInstanceRequestId>"
            f"<instanceId>{instance_id}</instanceId><status><code>{one['code']}</code>"
            f"<updateTime>{one['at']:%Y-%m-%dT%H:%M:%S.000Z}</updateTime></status></item>"
            for instance_id, one in self._requests.items()
            if value is None or one["tags"].get(name) == value
        )
        return f"<spotInstanceRequestSet>{items}</spotInstanceRequestSet>"


def _without_no_value(body: bytes) -> bytes:
    """AWS::NoValue takes an item out of a list; moto would leave a None there."""
    form = dict(parse_qsl(body.decode(), keep_blank_values=True))
    if "yes" in form.values() or "TemplateBody" not in form:  # WithQueue, the only such condition
        return body
    item = re.compile(r"^ +- !If\n +- HasQueue\n(?:.+\n)+? +- !Ref \"AWS::NoValue\"\n", re.M)
    return urlencode({**form, "TemplateBody": item.sub("", form["TemplateBody"])}).encode()


def _tags(form: dict[str, str]) -> dict[str, str]:
    """Those of the spot request, as they were sent."""
    found = re.compile(r"TagSpecification\.(\d+)\.ResourceType")
    numbers = [one[1] for name, value in form.items() if (one := found.fullmatch(name)) and value.startswith("spot")]
    keys = {name: value for name, value in form.items() if name.endswith(".Key")}
    return {
        value: form[name.removesuffix("Key") + "Value"]
        for number in numbers
        for name, value in keys.items()
        if name.startswith(f"TagSpecification.{number}.")
    }


def _xml(action: str, inside: str) -> tuple[str, list[tuple[str, str]], bytes]:
    text = f'<{action}Response xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">{inside}</{action}Response>'
    return "200 OK", [("Content-Type", "text/xml")], text.encode()


def _json(value: object, status: str = "200 OK") -> tuple[str, list[tuple[str, str]], bytes]:
    return status, [("Content-Type", "application/x-amz-json-1.1")], json.dumps(value).encode()


def _error(code: str, status: int = 400) -> tuple[str, list[tuple[str, str]], bytes]:
    text = (
        f"<Response><Errors><Error><Code>{escape(code)}</Code><Message>said the proxy</Message></Error></Errors>"
        f"<RequestID>1</RequestID></Response>"
    )
    return f"{status} Refused", [("Content-Type", "text/xml")], text.encode()


def _refused(start: Any, service: str, code: str, status: int) -> Iterable[bytes]:
    if service in ("pricing", "servicequotas", "ssm"):
        line, headers, content = _json({"__type": code, "message": "said the proxy"}, f"{status} Refused")
    else:
        line, headers, content = _error(code, status)
    start(line, headers)
    return [content]


@contextmanager
def running(clock: Clock) -> Iterator[Cloud]:
    """A fresh AWS on loopback, and this process's AWS environment, for as long as the block lasts."""
    from moto.core.base_backend import BackendDict
    from moto.core.model_instances import reset_model_data
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    class Quiet(MotoRequestHandler):  # type: ignore[misc]
        def log(self, *_: object) -> None:
            pass

    cloud = Cloud(clock)
    app = DomainDispatcherApplication(create_backend_app)

    def answer(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        return cloud.answer(app, environ, start)

    server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    cloud.url = f"http://127.0.0.1:{server.server_port}"
    before = dict(os.environ)
    os.environ |= {
        "AWS_ENDPOINT_URL": cloud.url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": REGION,
    }
    try:
        yield cloud
    finally:
        os.environ.clear()
        os.environ |= before
        server.shutdown()
        server.server_close()
        BackendDict.reset()
        reset_model_data()


def furnish(cloud: Cloud, *regions: str, stack: str = "halve") -> None:
    """What the CloudFormation template makes, as far as a launch needs it, and prices."""
    import boto3

    for region in regions or (REGION,):
        ec2, iam = boto3.client("ec2", region_name=region), boto3.client("iam", region_name=region)
        (vpc,) = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
        ec2.create_security_group(GroupName=f"{stack}-replica", Description="replicas", VpcId=vpc["VpcId"])
        iam.create_instance_profile(InstanceProfileName=f"{stack}-replica-{region}")
        priced(cloud, region)


def priced(cloud: Cloud, *regions: str) -> None:
    """What one machine type costs there, on demand and in the first two zones on spot."""
    for region in regions:
        currency = "CNY" if region.startswith("cn-") else "USD"
        cloud.price(TYPE, region, "0.526", currency)
        cloud.price("gp3", region, "0.08", currency)
        for zone in "ab":
            cloud.spot_prices[f"{region}{zone}", TYPE] = [(LONG_AGO, "0.1578")]


def settings(**changes: Any) -> Settings:
    """One machine type in one zone, spot and on demand."""
    plain = {"regions": (REGION,), "instance_types": (TYPE,), "address": "203.0.113.7"}
    return Settings(**{**plain, **changes})


def provider(home: Path, clock: Clock, **changes: Any) -> AwsProvider:
    """It asks for prices anew each time, and takes every machine's word that it is who it says: none is there."""
    own = settings(**changes)
    return AwsProvider(
        home, clock, own, Installation(str(home).encode()), watch=Unwatched(), spot_seconds=0, ask_seconds=0
    )


class Unwatched:
    """Machines that nobody asks."""

    def over(self, machines: Iterable[Listed]) -> list[Listed]:
        return list(machines)


def token(home: Path, name: str = "a") -> str:
    """Of a launch of this home: an account may be shared by tests, tokens may not."""
    return f"{name}-{hashlib.sha256(str(home).encode()).hexdigest()}"[:40]


def only(provider: AwsProvider) -> Listed:
    """The one machine that it lists."""
    (one,) = provider.instances()
    return one


def bare(provider_id: str | None) -> str:
    """As EC2 calls it."""
    return str(provider_id).rpartition("/")[2]


def offer(zone: str = f"{REGION}a", purchase: Purchase = Purchase.SPOT, kind: str = TYPE, gpu: str = "T4") -> Offer:
    """As the provider offers it of a furnished account."""
    return Offer(
        id=f"aws/{zone}/{kind}/{purchase}",
        provider="aws",
        zone=zone,
        instance_type=kind,
        gpu=gpu,
        purchase=purchase,
        price_per_hour_micros=157_800 if purchase is Purchase.SPOT else 526_000,
        currency="CNY" if zone.startswith("cn-") else "USD",
    )


def request(token: str, what: Offer | None = None, **payload: object) -> Request:
    """A launch as the loop asks for it."""
    what = what or offer()
    said = {"deployment": "ocr", "offer": what.id, "digest": "first", "model": "ppocr", "engine": {}}
    return Request(token=token, offer=what, payload={**said, **payload})
