"""Signed tokens: their contract, all known ways of forging, key rotation, renewal, revocation."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import uuid
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from archelon_core import auth
from archelon_core.auth import TenantId
from tests.archelon_core.auth.clock import FakeClock
from tests.archelon_core.auth.verifier_contract import VerifierContract

ISSUER = "https://design.example.org"
INSTANCE = str(uuid.UUID(int=7))
TENANT = TenantId("t-1")
AUDIENCE = "cloud-controller"


class ExistingInstances:
    def __init__(self) -> None:
        self.gone: set[str] = set()

    def exists(self, instance_id: str, tenant_id: TenantId) -> bool:
        return instance_id not in self.gone


class FailingRevocations(auth.MemoryRevocations):
    down = False

    def is_revoked(self, token_id: str, instance_id: str | None) -> bool:
        if self.down:
            raise auth.ProviderDownError("the database does not answer")
        return super().is_revoked(token_id, instance_id)


class System:
    """One issuer and one service that trusts it."""

    tenant_id = TENANT
    loose_end = 0

    def __init__(self, private: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> None:
        self.clock = FakeClock()
        self.private = private
        self.key = auth.SigningKey.of(private, issuer=ISSUER)
        self.keys = auth.VerificationKeys([self.key.public])
        self.instances = ExistingInstances()
        self.revocations = FailingRevocations(self.clock)
        self.issuer = auth.TokenIssuer(
            self.key, keys=self.keys, instances=self.instances, revocations=self.revocations, clock=self.clock
        )
        self.verifier = auth.SignedTokens(
            self.keys, audiences=[AUDIENCE], revocations=self.revocations, clock=self.clock
        )

    def issue(self) -> str:
        return self.issuer.for_instance(INSTANCE, tenant_id=TENANT, tenant_name="demo", audience=AUDIENCE)

    def expire(self, token: str) -> None:
        self.clock.advance(auth.LIFETIME + auth.LEEWAY)

    def revoke(self, token: str) -> None:
        self.issuer.revoke(self.verifier.verify(token))

    def break_down(self) -> None:
        self.revocations.down = True

    def claims(self, **changed: object) -> dict[str, Any]:
        now = int(self.clock())
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "sub": f"instance:{INSTANCE}",
            "aud": AUDIENCE,
            "tenant": "t-1",
            "instance": INSTANCE,
            "jti": "j",
            "iat": now,
            "nbf": now,
            "exp": now + 900,
        }
        claims.update(changed)
        return {name: value for name, value in claims.items() if value is not None}

    def signed(self, claims: dict[str, Any], **header: object) -> str:
        public = self.key.public
        # Bypasses jwt.encode, which refuses to create some of the tokens that must be refused.
        payload = json.dumps(claims).encode()
        return jwt.PyJWS().encode(payload, self.private, public.algorithm, {"kid": public.key_id, **header})


@pytest.fixture(params=["EdDSA", "ES256"])
def provider(request: pytest.FixtureRequest) -> System:
    if request.param == "EdDSA":
        return System(ed25519.Ed25519PrivateKey.generate())
    return System(ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def system() -> System:
    return System(ed25519.Ed25519PrivateKey.generate())


class TestSignedTokensKeepTheContract(VerifierContract):
    pass


def refused(system: System, token: str) -> str:
    with pytest.raises(auth.InvalidTokenError) as caught:
        system.verifier.verify(token)
    return caught.value.reason


def test_an_instance_token_states_subject_tenant_and_expiry(system: System) -> None:
    found = system.verifier.verify(system.issue())
    assert found == auth.Identity(
        subject=f"instance:{INSTANCE}",
        tenant_id=TENANT,
        tenant_name="demo",
        roles=frozenset({"instance"}),
        kind=auth.TokenKind.INSTANCE,
        expires=system.clock() + 900,
        issuer=ISSUER,
        token_id=found.token_id,
        instance_id=INSTANCE,
        audience=AUDIENCE,
        renewable=True,
    )


def test_a_service_manager_token_has_its_own_role(system: System) -> None:
    token = system.issuer.for_service("demo", tenant_id=TENANT, audience=AUDIENCE, instance_id=INSTANCE)
    found = system.verifier.verify(token)
    assert (found.subject, found.kind, found.roles) == (
        "service-manager:demo",
        auth.TokenKind.SERVICE,
        {"service"},
    )
    assert not found.renewable


def _unsigned(header: dict[str, object], claims: dict[str, Any]) -> str:
    return ".".join(_segment(json.dumps(part).encode()) for part in (header, claims))


def _segment(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", ""])
def test_a_token_without_signature_is_refused(system: System, name: str) -> None:
    body = _unsigned({"alg": name, "kid": system.key.public.key_id}, system.claims())
    refused(system, body + ".")
    refused(system, body + "." + _segment(b"signature"))


@pytest.mark.parametrize("provider", ["EdDSA", "ES256"], indirect=True)
@pytest.mark.parametrize("name", ["HS256", "HS384", "HS512"])
def test_the_public_key_is_not_accepted_as_a_shared_secret(provider: System, name: str) -> None:
    public = provider.private.public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    signing_input = _unsigned({"alg": name, "typ": "JWT", "kid": provider.key.public.key_id}, provider.claims())
    for secret in (pem, pem.strip(), der, b""):
        digest = hmac.new(secret, signing_input.encode(), getattr(hashlib, f"sha{name[2:]}")).digest()
        assert "InvalidAlgorithmError" in refused(provider, f"{signing_input}.{_segment(digest)}")


def test_another_algorithm_than_the_keys_is_refused(system: System) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    token = jwt.encode(system.claims(), other, algorithm="ES256", headers={"kid": system.key.public.key_id})
    assert "InvalidAlgorithmError" in refused(system, token)


def test_another_key_under_the_same_id_is_refused(system: System) -> None:
    token = jwt.encode(
        system.claims(),
        ed25519.Ed25519PrivateKey.generate(),
        algorithm="EdDSA",
        headers={"kid": system.key.public.key_id},
    )
    assert "InvalidSignatureError" in refused(system, token)


@pytest.mark.parametrize(
    "key_id",
    [
        "../../../../dev/null",
        "/etc/passwd",
        "file:///dev/null",
        "https://evil.example/key",
        "' OR 1=1 --",
        "",
        "x" * 2000,
    ],
)
def test_a_key_id_is_never_used_as_a_path(system: System, key_id: str) -> None:
    assert (
        refused(system, system.signed(system.claims(), kid=key_id)) == "signed token: no key is configured for its kid"
    )


@pytest.mark.parametrize("key_id", [None, 1, ["a"], {"a": 1}, True])
def test_a_key_id_that_is_not_text_is_refused(system: System, key_id: object) -> None:
    header = {"alg": "EdDSA", "kid": key_id}
    signing_input = _unsigned(header, system.claims())
    assert isinstance(system.private, ed25519.Ed25519PrivateKey)
    refused(system, f"{signing_input}.{_segment(system.private.sign(signing_input.encode()))}")


def test_a_key_in_the_tokens_header_is_not_used(system: System) -> None:
    mine = ed25519.Ed25519PrivateKey.generate()
    brought = {"kty": "OKP", "crv": "Ed25519", "x": _segment(mine.public_key().public_bytes_raw())}
    for header in ({"jwk": brought}, {"jku": "https://evil.example/jwks"}, {"x5u": "https://evil.example/cert"}):
        known = jwt.encode(
            system.claims(), mine, algorithm="EdDSA", headers={"kid": system.key.public.key_id, **header}
        )
        refused(system, known)
        refused(system, jwt.encode(system.claims(), mine, algorithm="EdDSA", headers=header))


def test_a_critical_extension_that_is_not_understood_is_refused(system: System) -> None:
    signing_input = _unsigned(
        {"alg": "EdDSA", "kid": system.key.public.key_id, "crit": ["exotic"], "exotic": 1}, system.claims()
    )
    assert isinstance(system.private, ed25519.Ed25519PrivateKey)
    refused(system, f"{signing_input}.{_segment(system.private.sign(signing_input.encode()))}")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"iss": "https://other.example.org"}, "another issuer"),
        ({"iss": [ISSUER]}, "another issuer"),
        ({"aud": "service-manager"}, "another audience"),
        ({"aud": AUDIENCE + " "}, "another audience"),
        ({"aud": [AUDIENCE]}, "'aud' is not a text"),
        ({"aud": [AUDIENCE, "service-manager"]}, "'aud' is not a text"),
        ({"sub": "alice"}, "neither an instance nor"),
        ({"sub": f"instance:{uuid.UUID(int=8)}"}, "different instances"),
        ({"sub": "instance:None", "instance": None}, "different instances"),
        ({"sub": f"Instance:{INSTANCE}"}, "neither an instance nor"),
        ({"sub": "instance:../x", "instance": "../x"}, "not a UUID"),
        ({"tenant": ""}, "'tenant' is not a text"),
        ({"tenant": ["t-1"]}, "'tenant' is not a text"),
        ({"tenant": "t" * 513}, "'tenant' is not a text"),
        ({"jti": 5}, "InvalidJTIError"),
        ({"exp": 1e400}, "'exp' is not a time"),
        ({"exp": True}, "'exp' is not a time"),
        ({"exp": "1800000900"}, "'exp' is not a time"),
        ({"exp": -1}, "'exp' is not a time"),
        ({"exp": 10**30}, "'exp' is not a time"),
    ],
)
def test_invalid_claims_are_refused(system: System, changed: dict[str, object], reason: str) -> None:
    assert reason in refused(system, system.signed(system.claims(**changed)))


@pytest.mark.parametrize("name", ["iss", "sub", "aud", "tenant", "jti", "iat", "nbf", "exp"])
def test_every_claim_is_required(system: System, name: str) -> None:
    assert "MissingRequiredClaimError" in refused(system, system.signed(system.claims(**{name: None})))


def test_roles_in_a_token_are_ignored(system: System) -> None:
    token = system.signed(system.claims(roles=["operator"], role="operator", scope="operator"))
    assert system.verifier.verify(token).roles == {"instance"}


def test_times_are_checked_with_five_seconds_leeway(system: System) -> None:
    token = system.issue()
    system.clock.advance(-auth.LEEWAY)
    system.verifier.verify(token)
    system.clock.advance(-1)
    assert refused(system, token) == "signed token: not yet valid"
    system.clock.advance(1 + auth.LEEWAY + auth.LIFETIME + auth.LEEWAY - 0.5)
    system.verifier.verify(token)
    system.clock.advance(0.5)
    assert refused(system, token) == "signed token: expired"


def test_a_token_that_lives_too_long_is_refused(system: System) -> None:
    now = int(system.clock())
    assert "lives longer" in refused(system, system.signed(system.claims(exp=now + 901)))
    with pytest.raises(ValueError, match="1 to 900 seconds"):
        system.issuer.for_instance(INSTANCE, tenant_id=TENANT, audience=AUDIENCE, lifetime=901)


def test_a_key_is_not_accepted_for_another_issuer(system: System) -> None:
    peer = auth.SigningKey.of(ed25519.Ed25519PrivateKey.generate(), issuer="https://peer.example.org")
    verifier = auth.SignedTokens(
        auth.VerificationKeys([system.key.public, peer.public]),
        audiences=[AUDIENCE],
        revocations=system.revocations,
        clock=system.clock,
    )

    def by_peer(issuer: str) -> str:
        claims = system.claims(iss=issuer)
        return jwt.encode(claims, peer.private, algorithm="EdDSA", headers={"kid": peer.public.key_id})

    assert verifier.verify(by_peer("https://peer.example.org")).issuer == "https://peer.example.org"
    with pytest.raises(auth.InvalidTokenError) as caught:
        verifier.verify(by_peer(ISSUER))
    assert "another issuer" in caught.value.reason


def test_key_rotation_refuses_no_valid_token(system: System) -> None:
    old_token = system.issue()
    new = auth.SigningKey.of(ec.generate_private_key(ec.SECP256R1()), issuer=ISSUER)
    both = auth.VerificationKeys([system.key.public, new.public])
    issuer = auth.TokenIssuer(
        new, keys=both, instances=system.instances, revocations=system.revocations, clock=system.clock
    )
    verifier = auth.SignedTokens(both, audiences=[AUDIENCE], revocations=system.revocations, clock=system.clock)
    assert verifier.verify(old_token).instance_id == INSTANCE
    renewed = issuer.renew(old_token, audience=AUDIENCE)
    only_new = auth.SignedTokens(
        auth.VerificationKeys([new.public]),
        audiences=[AUDIENCE],
        revocations=system.revocations,
        clock=system.clock,
    )
    assert only_new.verify(renewed).instance_id == INSTANCE
    with pytest.raises(auth.InvalidTokenError):
        only_new.verify(old_token)


def test_renewal_until_the_instance_is_gone(system: System) -> None:
    token = system.issue()
    first = system.verifier.verify(token)
    for _ in range(3):
        system.clock.advance(890)
        token = system.issuer.renew(token, audience=AUDIENCE)
    renewed = system.verifier.verify(token)
    assert renewed.expires == system.clock() + 900
    assert renewed.token_id != first.token_id
    assert (renewed.subject, renewed.tenant_id, renewed.tenant_name) == (
        first.subject,
        first.tenant_id,
        first.tenant_name,
    )
    system.instances.gone.add(INSTANCE)
    with pytest.raises(auth.NotAllowedError, match="gone"):
        system.issuer.renew(token, audience=AUDIENCE)


def test_tokens_that_are_not_renewed(system: System) -> None:
    exchanged = system.issuer.for_instance(INSTANCE, tenant_id=TENANT, audience="sm", lifetime=60, renewable=False)
    with pytest.raises(auth.NotAllowedError, match="not renewable"):
        system.issuer.renew(exchanged, audience="sm")
    service = system.issuer.for_service("demo", tenant_id=TENANT, audience=AUDIENCE, instance_id=INSTANCE)
    with pytest.raises(auth.NotAllowedError, match="not renewable"):
        system.issuer.renew(service, audience=AUDIENCE)
    token = system.issue()
    with pytest.raises(auth.InvalidTokenError):
        system.issuer.renew(token, audience="service-manager")
    system.revoke(token)
    with pytest.raises(auth.InvalidTokenError):
        system.issuer.renew(token, audience=AUDIENCE)


def test_a_deleted_instance_has_all_its_tokens_revoked(system: System) -> None:
    tokens = [system.issue(), system.issue()]
    other = system.issuer.for_instance(str(uuid.UUID(int=9)), tenant_id=TENANT, audience=AUDIENCE)
    service = system.issuer.for_service("demo", tenant_id=TENANT, audience=AUDIENCE, instance_id=INSTANCE)
    system.issuer.revoke_instance(INSTANCE)
    for token in tokens:
        assert "revoked" in refused(system, token)
    assert system.verifier.verify(other).tenant_id == TENANT
    # The service manager disposes of the instance.
    assert system.verifier.verify(service).instance_id == INSTANCE


def test_expired_revocations_are_dropped() -> None:
    clock = FakeClock()
    revocations = auth.MemoryRevocations(clock)
    for number in range(100):
        revocations.revoke_token(f"t{number}", until=clock() + 10)
        clock.advance(1)
    assert revocations.is_revoked("t99", None)
    assert not revocations.is_revoked("t50", None)


class TestKeys:
    def test_they_round_trip_as_a_jwk_set(self, system: System) -> None:
        other = auth.SigningKey.of(ec.generate_private_key(ec.SECP256R1()), issuer="elsewhere").public
        text = auth.write_jwk_set([system.key.public, other])
        found = auth.read_jwk_set(text)
        assert found.get(other.key_id) == other
        assert found.get(system.key.public.key_id) == system.key.public
        bare = json.loads(text)
        del bare["keys"][0]["iss"]
        for wrong in (json.dumps(bare), text.replace("P-256", "P-384"), "[]", "{", '{"keys": [{}]}'):
            with pytest.raises(ValueError, match=r"JWK|key|Expecting"):
                auth.read_jwk_set(wrong)

    def test_pem_round_trip_and_thumbprint(self) -> None:
        private = ed25519.Ed25519PrivateKey.generate()
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public_pem = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        signing = auth.SigningKey.from_pem(pem, issuer=ISSUER)
        assert auth.VerificationKey.from_pem(public_pem, issuer=ISSUER) == signing.public
        assert "PRIVATE" not in repr(signing)
        with pytest.raises(ValueError, match="configure the public one"):
            auth.VerificationKey.from_pem(pem, issuer=ISSUER)

    def test_the_thumbprint_is_that_of_rfc_8037(self) -> None:
        # RFC 8037, appendix A.3.
        x = base64.urlsafe_b64decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
        key = ed25519.Ed25519PublicKey.from_public_bytes(x)
        assert auth.VerificationKey.of(key, issuer=ISSUER).key_id == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"

    def test_other_kinds_of_key_are_refused(self) -> None:
        for private in (
            rsa.generate_private_key(public_exponent=65537, key_size=2048),
            ec.generate_private_key(ec.SECP384R1()),
        ):
            pem = private.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            with pytest.raises(ValueError, match=r"P-256 \(ES256\)"):
                auth.SigningKey.from_pem(pem, issuer=ISSUER)
        for junk in (b"", b"secret", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"):
            with pytest.raises(ValueError, match="not an unencrypted private key") as caught:
                auth.SigningKey.from_pem(junk, issuer=ISSUER)
            assert "AAAA" not in str(caught.value)

    def test_two_keys_with_one_id_are_refused(self) -> None:
        keys = [
            auth.SigningKey.of(ed25519.Ed25519PrivateKey.generate(), issuer=ISSUER, key_id="a").public for _ in range(2)
        ]
        with pytest.raises(ValueError, match="two verification keys have the id 'a'"):
            auth.VerificationKeys(keys)
