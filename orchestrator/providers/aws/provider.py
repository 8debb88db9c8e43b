"""Machines of EC2 as a provider. A machine is found by its tags only; its id here is region/instance."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from orchestrator.billing import Terms
from orchestrator.clock import Clock
from orchestrator.pinning import Pins
from orchestrator.providers import (
    Listed,
    Misconfigured,
    NoCapacity,
    Priced,
    ProviderError,
    Request,
    State,
    Unreachable,
)
from orchestrator.providers.aws import clients, listing, refusals
from orchestrator.providers.aws.contact import Contacts
from orchestrator.providers.aws.market import SPOT_SECONDS, Market
from orchestrator.providers.aws.memory import Memory, Past
from orchestrator.providers.aws.network import Network
from orchestrator.providers.aws.notices import ASK_SECONDS, Notices
from orchestrator.providers.aws.refusals import looking
from orchestrator.providers.aws.request import run_instances
from orchestrator.providers.aws.settings import TAG, Installation, Settings
from orchestrator.providers.aws.watch import Watch, Watching
from orchestrator.providers.aws.wheels import Wheels
from policies.snapshot import Offer

log = logging.getLogger("halve.aws")

#: EC2 lists a machine seconds after its launch, on a bad day minutes; what it has forgotten for so long is gone
LISTING_SECONDS = 600.0


class AwsProvider:
    """Machines in some regions of one account. Safe to use from several threads and processes."""

    name = "aws"
    listing_deadline_seconds = LISTING_SECONDS

    def __init__(
        self,
        home: Path,
        clock: Clock,
        settings: Settings,
        installation: Installation,
        *,
        watch: Watching | None = None,
        spot_seconds: float = SPOT_SECONDS,
        ask_seconds: float = ASK_SECONDS,
    ) -> None:
        """`watch`: how the machines themselves are asked; None: by their watchdogs, at their addresses.

        `spot_seconds`, `ask_seconds`: how old spot prices, and notices of the queue, may become.
        """
        #: by second, from the first minute on; a spot machine's first hour is free when EC2 ends it
        self.terms = Terms(minimum_seconds=60, first_hour_free=True)
        self._clock = clock
        self._settings = settings
        self._installation = installation
        self._market = Market(settings, clock, spot_seconds)
        self._memory = Memory(home)
        self._network = Network(settings, installation)
        self._watch = watch or Watch(installation, Contacts(Pins(home), installation.key))
        self._wheels = Wheels(home)
        self._notices = Notices(settings.queue, settings.regions[0], self._memory, ask_seconds)

    def offers(self) -> Sequence[Offer]:
        found = self._market.offers()
        self.terms = replace(self.terms, disk_per_hour_micros=self._market.beside_per_hour_micros())
        return found

    def prices(self, since: datetime) -> Sequence[Priced] | None:
        return self._market.prices(since)

    def instances(self) -> Sequence[Listed]:
        with ThreadPoolExecutor(max_workers=len(self._settings.regions)) as threads:
            found = [one for listed in threads.map(self._instances, self._settings.regions) for one in listed]
        self._keep_open(found)
        return tuple(self._watch.over(found))

    def launch(self, request: Request) -> str:
        self._memory.forget(self._clock.now())
        region = self._market.region_of(request.offer.zone)
        ground = self._market.ground(region)
        subnet = ground.subnets.get(request.offer.zone)
        if subnet is None:
            raise Misconfigured(f"{request.offer.id} is no longer on offer: no subnet of ours lies in its zone")
        group = self._network.group(region, ground.vpc)
        frozen = {**self._settings.frozen(None), **request.payload.get("aws", {})}
        if frozen["bucket"] and frozen["wheel"]:
            self._wheels.ensure(frozen["bucket"], frozen["wheel"], region)
        arguments = run_instances(request, frozen, self._installation, region=region, subnet=subnet, group=group)
        try:
            answer = clients.launching(region).run_instances(**arguments)
        except (ClientError, BotoCoreError) as error:
            code = refusals.code_of(error) if isinstance(error, ClientError) else ""
            if code in (refusals.MISMATCH, refusals.OVER):
                return self._found(region, request.token, is_over=code == refusals.OVER)
            raise refusals.of_launch(error) from None
        return f"{region}/{answer['Instances'][0]['InstanceId']}"

    def terminate(self, provider_id: str) -> None:
        region, _, instance_id = provider_id.rpartition("/")
        if not region:
            return  # never was one of ours
        try:
            clients.client("ec2", region).terminate_instances(InstanceIds=[instance_id])
        except (ClientError, BotoCoreError) as error:
            code = refusals.code_of(error) if isinstance(error, ClientError) else ""
            if code in refusals.NOT_FOUND:
                self._unknown(instance_id)
            elif code not in refusals.NEVER_WAS:
                raise refusals.of_look(error) from None

    def _instances(self, region: str) -> list[Listed]:
        ec2, now = clients.client("ec2", region), self._clock.now()
        only = [{"Name": f"tag:{TAG}installation", "Values": [self._installation.tag]}]
        with looking():
            reservations = clients.paged(ec2, "describe_instances", "Reservations", Filters=only)
            rows = [row for reservation in reservations for row in reservation["Instances"]]
            spot = any(row.get("InstanceLifecycle") == "spot" for row in rows)
            asked = clients.paged(ec2, "describe_spot_instance_requests", "SpotInstanceRequests", Filters=only)
            requests = {one.get("InstanceId"): one for one in asked} if spot else {}
        found = [listing.read(region, row, requests.get(row["InstanceId"]), self._memory, now) for row in rows]
        living = {one.provider_id.rpartition("/")[2]: one for one in found if one.state is not State.GONE}
        heard = {living[name].provider_id: past for name, past in self._notices.hear(region, living).items()}
        return [listing.told(one, heard[one.provider_id]) if one.provider_id in heard else one for one in found]

    def _found(self, region: str, token: str, *, is_over: bool) -> str:
        """The machine that this token started. It exists, EC2 says so: until it is listed, ask again.

        One that is over may be forgotten by now. Then this launch has failed, and the next one has another token.
        """
        only = [
            {"Name": f"tag:{TAG}installation", "Values": [self._installation.tag]},
            {"Name": f"tag:{TAG}token", "Values": [token]},
        ]
        ec2 = clients.client("ec2", region)
        with looking():
            rows = list(clients.paged(ec2, "describe_instances", "Reservations", Filters=only))
        if not rows and is_over:
            raise NoCapacity("the machine of this launch is over, and no longer listed")
        if not rows:
            raise Unreachable("EC2 knows this token's machine, and does not list it yet")
        return f"{region}/{rows[0]['Instances'][0]['InstanceId']}"

    def _unknown(self, instance_id: str) -> None:
        """EC2 knows no such machine. Right after a launch that means nothing; after a while, that it is gone."""
        now = self._clock.now()
        past = self._memory.of(instance_id) or Past(launched_at=now, started_at=now)
        if past.missing_since is None:
            past = self._memory.keep(instance_id, replace(past, missing_since=now))
        if past.ended_at is None and now - (past.missing_since or now) <= timedelta(seconds=LISTING_SECONDS):
            raise Unreachable(f"EC2 does not know {instance_id}, which is no proof that it is gone")

    def _keep_open(self, machines: Sequence[Listed]) -> None:
        """Let our address in where machines run: it may have changed. What runs is listed in any case."""
        for region in {one.provider_id.partition("/")[0] for one in machines if one.state is not State.GONE}:
            try:
                self._network.group(region, self._market.ground(region).vpc)
            except ProviderError as error:
                log.warning("the security group in %s cannot be opened: %s", region, error)
