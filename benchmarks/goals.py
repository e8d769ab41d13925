"""All goals of the benchmarks, whether they are met, and shared statistics.

`GOALS` is the only place for their numbers: benchmarks name what they measure, and the summary lists each goal. Goals are
ratios or processor time where that is possible; rates and seconds are those of two cores that do nothing else.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final


def p95(values: Sequence[float]) -> float:
    """Return the 95th percentile."""
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


@dataclasses.dataclass(frozen=True, slots=True)
class Goal:
    """What is measured, and its bound. `form` is the format of value and bound; its unit follows both."""

    what: str
    bound: float
    form: str = ".2f"
    unit: str = ""
    at_least: bool = False

    def met(self, value: float) -> bool:
        """Whether a value is good enough."""
        return value >= self.bound if self.at_least else value <= self.bound

    def shown(self, value: float) -> str:
        """Return a value with its unit."""
        return f"{value:{self.form}}{self.unit}"

    @property
    def wanted(self) -> str:
        """The bound as text."""
        return f"{'>=' if self.at_least else '<='} {self.shown(self.bound)}"


GOALS: Final[Mapping[str, Goal]] = {
    # The all-in-one, and orders of `orchestrators/hello` on it.
    "hello.rate": Goal("hello orders, 50 at once", 10, ".1f", " /s", at_least=True),
    "hello.alone": Goal("hello order alone, less its node's own start", 0.15, ".2f", " s"),
    "hello.memory": Goal("one more instance without code, its node aside: PSS", 1.0, ".2f", " MiB"),
    "hello.memory.code": Goal("one more instance with orchestrator.py, its node aside: PSS", 14, ".1f", " MiB"),
    "dev.ready": Goal("archelon dev until ready", 1.5, ".2f", " s"),
    "dev.memory": Goal("archelon dev, idle, without instances: PSS", 200, ".0f", " MiB"),
    "idle.installation": Goal("idle all-in-one without instances, of a core", 0.005, ".3%"),
    "idle.instance": Goal("one more idle instance, its node aside, of a core", 0.0002, ".4%"),
    "command.list": Goal("archelon instance list, processor", 0.15, ".3f", " s"),
    "command.help": Goal("archelon --help, processor", 0.06, ".3f", " s"),
    # Orders with a fake cloud, two web processes and a worker.
    "orders.rate": Goal("orders with a fake cloud, by processor time of two cores", 60, ".0f", " /s", at_least=True),
    "orders.active": Goal("orders at once that became active", 1.0, ".0%", at_least=True),
    "orders.alone": Goal("order alone, in its requests as bare GETs", 12, ".1f"),
    "orders.statements": Goal("SQL statements of an order", 40, ".1f"),
    "orders.transactions": Goal("transactions of an order", 5, ".1f"),
    # Reads.
    "reads.one": Goal("GET of one instance at saturation, of bare Falcon and a SELECT", 0.75, ".0%", at_least=True),
    "reads.depth": Goal("last page of 50 of 100,000, of the first", 1.3),
    "reads.size": Goal("read among 100,000, of one among 100", 1.2),
    "rendering": Goal("GET of an entity in memory, of bare Falcon", 0.6, ".0%", at_least=True),
    # Parts.
    "fairness": Goal("order beside another tenant's thousand, of one beside a stream", 2.0),
    "hosts.memory.shared": Goal("one more idle instance in a shared host: PSS", 250, ".0f", " KiB"),
    "hosts.memory.forked": Goal("one more idle instance in a forked host: PSS", 12, ".1f", " MiB"),
    "hosts.start.shared": Goal("start of an instance in a shared host, processor", 6, ".1f", " ms"),
    "queue.latency": Goal("work item from enqueueing to start, p95", 50, ".1f", " ms"),
    "queue.idle": Goal("idle worker, of a core", 0.002, ".2%"),
    "transactions": Goal("transaction of four statements, of the driver alone", 1.5),
    "heavy": Goal("writers beside a heavy request, p95, of alone", 2.0),
    "slow": Goal("GET beside slow clients, p95, of alone", 2.0),
    "recovery": Goal("from a kill to ready", 3.0, ".2f", " s"),
    # Clouds.
    "heat.alone": Goal("Heat order alone, of the stack by hand + 5 % + 0.5 s", 1.0),
    "heat.at_once": Goal("last of ten Heat orders at once, of the stacks by hand", 1.2),
    "keystone": Goal("GET with a cached token of Keystone, of one with the realm's", 0.9, ".0%", at_least=True),
    "kubernetes": Goal("orchestrator's pod until ready, of kubectl's", 1.1),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """A measured value of a goal; `of` says of what, such as a database."""

    name: str
    value: float
    of: str = ""

    @property
    def met(self) -> bool:
        """Whether the goal is met."""
        return GOALS[self.name].met(self.value)


@dataclasses.dataclass
class Goals:
    """The results of one benchmark. Each is printed when it is checked, and kept for the summary."""

    results: list[Result] = dataclasses.field(default_factory=list)

    def check(self, name: str, value: float, of: str = "") -> None:
        """Check a value against the goal of this name in `GOALS`; KeyError if there is none."""
        result = Result(name, value, of)
        self.results.append(result)
        row = dict(zip(("what", "measured", "goal", "met"), _row(result), strict=True))
        print(f"  {row['met']:<6}  {row['what']}: {row['measured']} (goal: {row['goal']})", flush=True)


def _row(result: Result) -> tuple[str, str, str, str]:
    goal = GOALS[result.name]
    what = f"{goal.what} ({result.of})" if result.of else goal.what
    return what, goal.shown(result.value), goal.wanted, "met" if result.met else "MISSED"


def table(results: Iterable[Result], *, unmeasured: bool) -> Iterator[str]:
    """Yield the lines of the summary, in the order of `GOALS`.

    Args:
        unmeasured: whether goals without a result get a line too.
    """
    found = list(results)
    rows = [("what", "measured", "goal", "")]
    for name, goal in GOALS.items():
        mine = [_row(each) for each in found if each.name == name]
        rows += mine or ([(goal.what, "-", goal.wanted, "not measured")] if unmeasured else [])
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for what, measured, wanted, met in rows:
        yield f"{what:<{widths[0]}}  {measured:>{widths[1]}}  {wanted:>{widths[2]}}  {met}".rstrip()
