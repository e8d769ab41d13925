"""Rates, sizes and quotas."""

from __future__ import annotations

import inspect
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archelon_core import auth
from archelon_core.auth import Counts, Quotas, TenantId
from archelon_core.auth.size_limit import HEAD_SIZE
from archelon_core.http import server
from tests.archelon_core.auth.clock import FakeClock
from tests.archelon_core.auth.wsgi import call


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


class TestRateLimiter:
    def test_a_burst_then_the_rate(self) -> None:
        clock = FakeClock()
        limiter = auth.RateLimiter(rate=2, burst=5, clock=clock)
        assert [limiter.take("a") for _ in range(5)] == [0.0] * 5
        assert limiter.take("a") == pytest.approx(0.5)
        clock.advance(0.5)
        assert limiter.take("a") == 0.0
        assert limiter.take("a") > 0
        assert limiter.take("b") == 0.0

    def test_an_idle_key_saves_up_no_more_than_the_burst(self) -> None:
        clock = FakeClock()
        limiter = auth.RateLimiter(rate=100, burst=3, clock=clock)
        limiter.take("a")
        clock.advance(3600)
        assert [limiter.take("a") > 0 for _ in range(4)] == [False, False, False, True]

    def test_memory_is_bounded_and_the_busy_stay_limited(self) -> None:
        limiter = auth.RateLimiter(rate=0.1, burst=1, clock=FakeClock(), keys=10)
        assert limiter.take("busy") == 0.0
        for number in range(1000):
            limiter.take(f"passer-by {number}")
            assert limiter.take("busy") > 0
        assert len(limiter) == 10

    def test_a_clock_set_back_earns_nothing_and_breaks_nothing(self) -> None:
        clock = FakeClock()
        limiter = auth.RateLimiter(rate=1, burst=1, clock=clock)
        limiter.take("a")
        clock.advance(-100)
        assert limiter.take("a") == pytest.approx(1.0)

    @given(st.floats(0.1, 50), st.integers(1, 20), st.lists(st.floats(0, 5), max_size=200))
    def test_never_more_than_burst_plus_rate_times_time(self, rate: float, burst: int, gaps: list[float]) -> None:
        clock = FakeClock(0.0)
        limiter = auth.RateLimiter(rate=rate, burst=burst, clock=clock)
        passed = 0
        for gap in gaps:
            clock.advance(gap)
            passed += limiter.take("a") == 0.0
            assert passed <= burst + rate * clock.now + 1e-6

    @given(st.floats(0.1, 50), st.integers(1, 20))
    def test_a_client_that_waits_as_long_as_stated_passes(self, rate: float, burst: int) -> None:
        clock = FakeClock(0.0)
        limiter = auth.RateLimiter(rate=rate, burst=burst, clock=clock)
        for _ in range(burst):
            limiter.take("a")
        clock.advance(limiter.take("a") + 1e-9)
        assert limiter.take("a") == 0.0

    def test_a_cost_above_the_bucket_passes_and_leaves_a_debt(self) -> None:
        clock = FakeClock()
        limiter = auth.RateLimiter(rate=2, burst=5, clock=clock)
        assert limiter.take("a", 105.0) == 0.0
        assert limiter.take("a") == pytest.approx(50.5)
        clock.advance(50.5)
        assert limiter.take("a") == 0.0


class TestRateLimit:
    def test_a_body_costs_as_much_as_requests_of_its_size_together(self) -> None:
        limiter = auth.RateLimiter(rate=1, burst=3, clock=FakeClock())
        app = auth.RateLimit(hello, limiter, key=lambda _: "a", cost=auth.cost_of_body)
        for size in (0, 2 * 8192):
            assert call(app, method="POST", CONTENT_LENGTH=str(size)).status == 200
        assert call(app).status == 429

    def test_a_body_in_chunks_costs_what_the_largest_does(self) -> None:
        limiter = auth.RateLimiter(rate=1, burst=2, clock=FakeClock())
        app = auth.RateLimit(hello, limiter, key=lambda _: "a", cost=auth.cost_of_body)
        assert call(app, {"Transfer-Encoding": "chunked"}, method="POST").status == 200
        assert call(app).headers["Retry-After"] == "127"

    def test_an_address_above_its_rate_gets_429_with_retry_after(self) -> None:
        clock = FakeClock()
        limiter = auth.RateLimiter(rate=0.25, burst=2, clock=clock)
        app = auth.RateLimit(hello, limiter, key=auth.ClientAddress())
        assert [call(app).status for _ in range(3)] == [200, 200, 429]
        refused = call(app)
        assert refused.headers["Retry-After"] == "4"
        assert call(app, REMOTE_ADDR="192.0.2.2").status == 200
        assert call(app, path="/healthz").status == 200
        clock.advance(int(refused.headers["Retry-After"]))
        assert call(app).status == 200

    def test_each_tenant_has_a_bucket_and_anonymous_requests_none(self) -> None:
        limiter = auth.RateLimiter(rate=1, burst=1, clock=FakeClock())
        app = auth.RateLimit(hello, limiter, key=auth.by_tenant)

        def ask(issuer: str, tenant: str) -> int:
            caller = auth.Identity(
                subject="a",
                tenant_id=TenantId(tenant),
                tenant_name="",
                roles=frozenset(),
                kind=auth.TokenKind.USER,
                expires=None,
                issuer=issuer,
                token_id="t",
            )
            return call(app, **{auth.IDENTITY: caller}).status

        assert [ask("realm", "a"), ask("realm", "b"), ask("peer", "a")] == [200, 200, 200]
        assert [ask("realm", "a"), ask("realm", "b"), ask("peer", "a")] == [429, 429, 429]
        assert [call(app).status for _ in range(3)] == [200, 200, 200]


class TestClientAddress:
    def test_without_trusted_proxies_the_peer_counts(self) -> None:
        key = auth.ClientAddress()
        forged = {"REMOTE_ADDR": "203.0.113.9", "HTTP_X_FORWARDED_FOR": "10.0.0.1"}
        assert key(forged) == "203.0.113.9"
        assert key({"REMOTE_ADDR": "2001:db8:1:2:3::4"}) == "2001:db8:1:2::/64"
        assert key({"REMOTE_ADDR": "::ffff:203.0.113.9"}) == "203.0.113.9"
        assert key({"REMOTE_ADDR": ""}) == ""
        assert key({}) == ""

    def test_behind_a_trusted_proxy_the_last_untrusted_hop_counts(self) -> None:
        key = auth.ClientAddress(["10.0.0.0/8"])

        def of(peer: str, forwarded: str) -> str:
            return key({"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": forwarded})

        assert of("10.0.0.1", "203.0.113.9") == "203.0.113.9"
        assert of("10.0.0.1", "1.1.1.1, 203.0.113.9, 10.0.0.7") == "203.0.113.9"
        assert of("10.0.0.1", "junk") == "10.0.0.1"
        assert of("10.0.0.1", "") == "10.0.0.1"
        assert of("203.0.113.9", "1.1.1.1") == "203.0.113.9"
        assert of("10.0.0.1", ", ".join(["1.1.1.1"] + ["10.0.0.2"] * 1000)) == "10.0.0.2"

    def test_an_invalid_proxy_network_raises(self) -> None:
        with pytest.raises(ValueError):
            auth.ClientAddress(["proxy.example.org"])


def read_all(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    size = len(environ["wsgi.input"].read(-1))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(size).encode()]


def read_in_pieces(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    size = 0
    while piece := environ["wsgi.input"].read(7):
        size += len(piece)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(size).encode()]


def read_lines(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    size = sum(len(line) for line in environ["wsgi.input"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(size).encode()]


def hide_the_failure(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Like a framework that turns every exception into its own response."""
    try:
        return read_in_pieces(environ, start_response)
    except Exception:
        start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
        return [b"oops"]


READERS = [read_all, read_in_pieces, read_lines, hide_the_failure]


class TestSizeLimit:
    @pytest.mark.parametrize("reader", READERS)
    def test_a_chunked_body_is_counted_while_it_is_read(self, reader: Any) -> None:
        app = auth.SizeLimit(reader, body=100)
        for size, status in ((0, 200), (99, 200), (100, 200), (101, 413), (10_000, 413)):
            body = io.BytesIO(b"x" * size)
            answer = call(app, {"Transfer-Encoding": "chunked"}, method="POST", **{"wsgi.input": body})
            assert answer.status == status, size
            assert body.tell() <= 101
            if status == 200:
                assert answer.body == str(size).encode()
            else:
                assert b"100 bytes" in answer.body

    def test_a_body_declared_too_large_is_not_read(self) -> None:
        app = auth.SizeLimit(read_all, body=100)
        body = io.BytesIO(b"x" * 101)
        answer = call(app, method="POST", CONTENT_LENGTH="101", **{"wsgi.input": body})
        assert answer.status == 413
        assert body.tell() == 0
        assert call(app, method="POST", CONTENT_LENGTH="100", **{"wsgi.input": io.BytesIO(b"x" * 100)}).status == 200

    @pytest.mark.parametrize("length", ["-1", "+5", "1e3", "0x10", "5,5", "１２", "9" * 20, " 5"])
    def test_an_invalid_length_is_a_bad_request(self, length: str) -> None:
        environ: dict[str, Any] = {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": length, "PATH_INFO": "/"}
        statuses = []
        app = auth.SizeLimit(read_all)
        list(app(environ, lambda status, headers, exc_info=None: statuses.append(status) or (lambda chunk: None)))
        assert statuses == ["400 Bad Request"]

    def test_a_length_with_a_coding_does_not_disable_the_limit(self) -> None:
        app = auth.SizeLimit(read_all, body=100)
        body = io.BytesIO(b"x" * 500)
        answer = call(app, {"Transfer-Encoding": "chunked"}, method="POST", CONTENT_LENGTH="5", **{"wsgi.input": body})
        assert answer.status == 413

    def test_a_body_without_a_length_is_counted_too(self) -> None:
        app = auth.SizeLimit(read_in_pieces, body=100)
        for size, status in ((100, 200), (101, 413)):
            assert call(app, method="POST", **{"wsgi.input": io.BytesIO(b"x" * size)}).status == status

    def test_some_paths_accept_larger_bodies(self) -> None:
        app = auth.SizeLimit(read_all, body=lambda path: 1000 if path.startswith("/bundle/") else 10)
        for path, status in (("/bundle/a", 200), ("/demo/", 413)):
            body = io.BytesIO(b"x" * 500)
            answer = call(app, path=path, method="PUT", CONTENT_LENGTH="500", **{"wsgi.input": body})
            assert answer.status == status

    def test_too_many_fields_or_too_long_ones_are_431(self) -> None:
        app = auth.SizeLimit(hello, fields=10, fields_bytes=2000)
        assert call(app, {f"X-{number}": "v" for number in range(9)}).status == 200
        assert call(app, {f"X-{number}": "v" for number in range(11)}).status == 431
        answer = call(app, {"X-OCCI-Attribute": "v" * 2001})
        assert answer.status == 431
        assert b"in the body" in answer.body

    def test_fields_are_counted_even_if_the_head_is_known_to_be_small(self) -> None:
        app = auth.SizeLimit(hello, fields=40, fields_bytes=2000)
        many = {f"X-{number}": "v" for number in range(41)}
        for head, fields, status in (
            (1000, {"X": "v" * 900}, 200),
            (1000, many, 431),
            (1001, {"X": "v" * 2001}, 431),
            (2010, {"X": "v" * 1999}, 431),
        ):
            assert call(app, fields, **{HEAD_SIZE: head}).status == status


class TestHeavyLimit:
    def test_small_requests_are_not_counted(self) -> None:
        running = auth.HeavyRequests(per_key=1, total=1)
        seen: list[int] = []
        app = auth.HeavyLimit(_noting(running, seen), running, key=lambda _: "a")
        for length in ("", "0", "8192"):
            assert call(app, method="POST", CONTENT_LENGTH=length).status == 200
        assert seen == [0, 0, 0]
        assert call(app, method="POST", CONTENT_LENGTH="8193").status == 200
        assert call(app, {"Transfer-Encoding": "chunked"}, method="POST").status == 200
        assert seen[3:] == [1, 1]
        assert len(running) == 0

    def test_too_many_at_once_get_429_with_retry_after(self) -> None:
        running = auth.HeavyRequests(per_key=2, total=3)
        app = auth.HeavyLimit(hello, running, key=lambda environ: environ["HTTP_X_WHO"])

        def ask(who: str) -> Any:
            return call(app, {"X-Who": who}, method="POST", CONTENT_LENGTH="20000")

        assert running.begin("a")
        assert running.begin("a")
        refused = ask("a")
        assert refused.status == 429
        assert refused.headers["Retry-After"] == "1"
        assert ask("b").status == 200
        assert running.begin("b")
        # Other tenants use the whole limit: the remaining threads are for small requests.
        assert ask("c").status == 429
        running.end("a")
        assert ask("c").status == 200

    def test_a_failed_request_counts_as_ended(self) -> None:
        running = auth.HeavyRequests(per_key=1, total=1)

        def slip(environ: Any, start_response: Any) -> Any:
            raise ZeroDivisionError

        app = auth.HeavyLimit(slip, running, key=lambda _: "a")
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                call(app, method="POST", CONTENT_LENGTH="20000")
        assert len(running) == 0

    def test_it_leaves_threads_to_other_tenants(self) -> None:
        threads = inspect.signature(server.serve).parameters["threads"].default
        assert auth.HeavyRequests().total < threads

    def test_a_limit_of_zero_raises(self) -> None:
        with pytest.raises(ValueError, match="at least one"):
            auth.HeavyRequests(total=0)


def _noting(running: auth.HeavyRequests, seen: list[int]) -> Any:
    def app(environ: Any, start_response: Any) -> Any:
        seen.append(len(running))
        return hello(environ, start_response)

    return app


class TestQuotas:
    def test_no_limits_by_default(self) -> None:
        Quotas().check(Counts(instances=10**6, of_service=10**6), service="s")

    def test_the_default_and_none_at_all(self) -> None:
        def ordered(default: int, present: int) -> bool:
            try:
                Quotas(default=default).check(Counts(instances=present, of_service=0), service="s")
            except auth.QuotaExceededError:
                return False
            return True

        assert [ordered(3, 2), ordered(3, 3)] == [True, False]
        assert not ordered(0, 0)

    def test_a_services_limit_holds_beside_the_tenants(self) -> None:
        quotas = Quotas(default=100, per_service={"s": 2})
        quotas.check(Counts(instances=50, of_service=50), service="other")
        quotas.check(Counts(instances=50, of_service=1), service="s")
        with pytest.raises(auth.QuotaExceededError, match="may have 2 instances of s; this one has 2"):
            quotas.check(Counts(instances=50, of_service=2), service="s")

    @given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
    def test_accepted_orders_stay_within_the_limit(self, limit: int, present: int, of_service: int) -> None:
        quotas = Quotas(default=limit, per_service={"s": limit})
        counts = Counts(instances=present, of_service=min(present, of_service))
        fits = present + 1 <= limit
        try:
            quotas.check(counts, service="s")
        except auth.QuotaExceededError:
            assert not fits
        else:
            assert fits

    def test_a_negative_limit_raises_with_its_name(self) -> None:
        with pytest.raises(ValueError, match="of service a is -1"):
            Quotas(per_service={"a": -1})
