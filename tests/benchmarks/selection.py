"""How long the exact choice of a mix takes: 20 offers, 12 classes of requests, about 200 replicas."""

import random
import statistics
import time

from policies.advice import Demand, Terms
from policies.mix import cheapest
from policies.program import Limits
from policies.snapshot import Offer, Profile, Purchase

OFFERS, CLASSES, REPLICAS, MARKETS = 20, 12, 200, 12
TERMS = Terms(model="bench", p95_ms=2000, limits=Limits(steady=5), start_seconds=180)


def main() -> None:
    """Print median and worst of several random markets, the winner and the runner-up included."""
    import highspy  # noqa: F401  what is loaded once is not what is measured

    for gpus in (OFFERS // 2, OFFERS):
        measure(gpus)


def measure(gpus: int) -> None:
    walls, cpus, replicas = [], [], []
    for seed in range(MARKETS):
        offers, demand, today = market(random.Random(seed), gpus)
        wall, cpu = time.perf_counter(), time.process_time()
        answer = cheapest(offers, demand, TERMS, today)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
        assert answer.winner is not None and answer.runner_up is not None, answer.reason
        replicas.append(sum(part.count for part in answer.winner.parts))
    print(
        f"{OFFERS} offers of {gpus} GPUs x {CLASSES} classes, {min(replicas)}-{max(replicas)} replicas, "
        "with the runner-up: "
        f"median {statistics.median(walls):.2f} s, worst {max(walls):.2f} s "
        f"(CPU {statistics.median(cpus):.2f} s, worst {max(cpus):.2f} s)"
    )


def market(chance: random.Random, kinds: int) -> tuple[list[Offer], list[Demand], dict[str, int]]:
    """GPUs on demand and, where offers are left, spot; dearer ones faster by and large, each at other images."""
    gpus = [(f"G{number}", chance.uniform(0.3, 12)) for number in range(kinds)]
    terms = [(Purchase.ON_DEMAND, 1.0), (Purchase.SPOT, chance.uniform(0.25, 0.6))][: OFFERS // kinds]
    offers = [
        Offer(
            id=f"{gpu}/{purchase}",
            provider="bench",
            zone="z",
            instance_type=gpu,
            gpu=gpu,
            purchase=purchase,
            price_per_hour_micros=round(price * share * 1e6),
            currency="CNY",
            capacity=chance.choice([10, 20, 40]),
        )
        for gpu, price in gpus
        for purchase, share in terms
    ]
    demand = []
    for number in range(CLASSES):
        speeds = {gpu: (0.5 + price) * chance.uniform(0.5, 2) / (1 + 0.3 * number) for gpu, price in gpus}
        mean = statistics.mean(speeds.values())
        demand.append(
            Demand(
                name=f"class {number}",
                images_per_second=chance.uniform(0.5, 1.5) * mean * REPLICAS / CLASSES,
                profiles=tuple(
                    Profile(
                        model="bench",
                        gpu=gpu,
                        precision="fp16",
                        batch=1,
                        images_per_second=speed,
                        p95_ms=2500 / speed,
                        source="bench",
                    )
                    for gpu, speed in speeds.items()
                ),
            )
        )
    today = {offer.id: chance.randint(0, offer.capacity or 0) for offer in offers if chance.random() < 0.5}
    return offers, demand, today


if __name__ == "__main__":
    main()
