"""The guestbook on a cluster: its web tier from manifests, its store from an infrastructure description."""

from __future__ import annotations

import urllib.parse
import urllib.request
from dataclasses import replace

import bundles
from sdk.templates import Document
from tests.orchestrators.bundles import GUESTBOOK, STORE
from tests.waiting import until

from .bed import Bed
from .test_stacks_on_a_cluster import Driver, answer, answers


def test_entries_outlive_the_pods_that_stored_them(bed: Bed) -> None:
    document = Document.read(bundles.Bundle.load(STORE), "templates/local.yaml", "infrastructure")
    store = Driver(bed, document.text, bed.platform.declarative)
    values = {"store.password": "s3cret", "store.limit": 10}
    store.order = replace(store.order, parameters=values, files=document.files)
    endpoint = store.settle().outputs["store.endpoint"]

    document = Document.read(bundles.Bundle.load(GUESTBOOK), "templates/kubernetes.yaml", "kubernetes")
    web = Driver(bed, document.text)
    values = {"guestbook.title": "Visitors", "store.endpoint": endpoint, "store.password": "s3cret"}
    web.order = replace(web.order, parameters=values, files=document.files)
    done = web.settle(counts={"web": 2})
    url = done.outputs["guestbook.url"]
    assert url == f"http://{done.outputs['guestbook.endpoints']}/"
    until(lambda: answers(url, "<!doctype html><title>Visitors"))
    form = urllib.parse.urlencode({"entry": "hello <i>"}).encode()
    with urllib.request.urlopen(url, form, timeout=60) as signed:
        assert signed.status == 200
    before = {each["metadata"]["uid"] for each in bed.pods(stack=web.order.id)}
    assert len(before) == 2
    for pod in bed.pods(stack=web.order.id):
        bed.kill(pod)
    until(lambda: not before & {each["metadata"]["uid"] for each in bed.pods(stack=web.order.id)})
    web.settle()
    until(lambda: answers(url, "<!doctype html>"))
    assert "<ul><li>hello &lt;i&gt;</li></ul>" in answer(url)
    for pod in (*bed.pods(stack=web.order.id), *bed.pods(stack=store.order.id)):
        assert "s3cret" not in str(pod)
    bed.leave(web.gone)
    bed.leave(store.gone)
