"""Templates that several tests use, and their orders."""

from __future__ import annotations

from typing import Any

from cloud_controller.core.labels import Labels
from cloud_controller.platforms.interface import StackOrder

INSTANCE = "i-1"
LABELS = Labels(INSTANCE, "t-1", "http://schemas.example.org/occi/sm#web", 1)

#: A web tier: configuration, workload, service, and a document of kind Stack.
WEB = """
apiVersion: v1
kind: ConfigMap
metadata: {name: "web-${org.archelon.instance}"}
data:
  server.py: |
    import http.server, os, signal, sys
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = os.environ["WORD"].encode() + b" from " + os.environ["HOSTNAME"].encode()
            self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
            self.wfile.write(body)
        def log_message(self, *arguments): pass
    print("up", flush=True)
    http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
---
apiVersion: v1
kind: Secret
metadata: {name: "web-${org.archelon.instance}"}
stringData: {WORD: "${word}"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: "web-${org.archelon.instance}", labels: {tier: web}}
spec:
  selector: {matchLabels: {tier: web}}
  template:
    metadata: {labels: {tier: web}}
    spec:
      terminationGracePeriodSeconds: 3
      containers:
        - name: web
          image: "${image}"
          command: [python3, -I, -u, /app/server.py]
          envFrom: [{secretRef: {name: "web-${org.archelon.instance}"}}]
          ports: [{name: http, containerPort: 8080}]
          readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
          resources: {requests: {cpu: 10m, memory: 32Mi}, limits: {memory: 128Mi}}
          securityContext: {runAsUser: 1000}
          volumeMounts: [{name: app, mountPath: /app}]
      volumes: [{name: app, configMap: {name: "web-${org.archelon.instance}"}}]
---
apiVersion: v1
kind: Service
metadata: {name: "web-${org.archelon.instance}"}
spec:
  selector: {tier: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: archelon.org/v1
kind: Stack
nodes:
  web: {of: "Deployment/web-${org.archelon.instance}", min: 1, max: 3}
outputs:
  url: {of: "Service/web-${org.archelon.instance}", value: "http://{.spec.clusterIP}:{.spec.ports[?@.name=='http'].port}/"}
  port: {of: "Service/web-${org.archelon.instance}", value: "{.spec.ports[0].port}"}
"""

#: One pod, whose spec the tests extend.
POD = """
apiVersion: v1
kind: Pod
metadata: {{name: p-i-1}}
spec: {{containers: [{{name: c, image: x{container}}}]{pod}}}
"""


def order(template: str, parameters: dict[str, Any] | None = None, **changes: Any) -> StackOrder:
    given: dict[str, Any] = {"id": "s1", "name": "main", "labels": LABELS, **changes}
    return StackOrder(template=template, parameters=parameters or {}, **given)
