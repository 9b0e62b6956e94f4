"""Containers, Kubernetes, Prometheus and Grafana: each file of deploy/ as far as it can be tried without an engine, a
cluster or a Grafana.
"""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import kubernetes_validate
import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from test_alerts import promtool  # noqa: F401, a fixture

from support.chatd import DEADLINE, ROOT, alive, binary, children, clean_env, run_chatd, until
from support.nginx import NAME, Nginx
from support.nginx import missing as nginx_missing
from support.servers import Port, Redis

DEPLOY = ROOT / "deploy"
DOCKER, KUBERNETES = DEPLOY / "docker", DEPLOY / "kubernetes"
SERVERS = ("chat-server-1", "chat-server-2")  # the guide's names
JOBS = ("redis-cluster", "mongo-replica-set")

needs_compose = pytest.mark.skipif(not shutil.which("docker-compose"), reason="no docker-compose here")
needs_nginx = pytest.mark.skipif(bool(nginx_missing()), reason=f"not installed: {nginx_missing()}")


def run(*args, **options):
    options = {"capture_output": True, "text": True, "timeout": DEADLINE, **options}
    return subprocess.run([str(arg) for arg in args], **options)


def settings_are_right(env):
    """chatd takes these settings, given by their environment names; it may warn that nobody is there."""
    known = (ROOT / "chat.conf.example").read_text()
    for name in env:
        assert re.search(rf"environment {name}\b", known), f"{name} is no setting"
    checked = run_chatd("-t", env=env)
    assert checked.returncode == 0, checked.stderr


# -- Containers ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compose():
    """What docker-compose makes of the file with env.example."""
    done = run("docker-compose", "--env-file", "env.example", "config", cwd=DOCKER, env={**os.environ})
    assert done.returncode == 0, done.stderr
    assert "WARN" not in done.stderr, done.stderr
    return yaml.safe_load(done.stdout)


@needs_compose
def test_compose_asks_for_the_passwords(tmp_path):
    (tmp_path / "empty").touch()
    done = run("docker-compose", "--env-file", tmp_path / "empty", "config", "-q", cwd=DOCKER)
    assert done.returncode != 0 and "set it in .env" in done.stderr


@needs_compose
def test_only_nginx_can_be_reached_from_outside(compose):
    ports = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert set(ports) == {"nginx", "grafana"}
    assert [str(port) for port in ports["grafana"]] == ["127.0.0.1:3000:3000/tcp"]
    data = {name for name, service in compose["services"].items() if "data" in service["networks"]}
    assert compose["networks"]["data"]["internal"] is True
    assert data == {*SERVERS, *JOBS} | {f"redis-{i}" for i in range(1, 7)} | {f"mongo-{i}" for i in range(1, 4)}


@needs_compose
def test_every_service_has_what_keeps_it_running(compose):
    for name, service in compose["services"].items():
        assert service["mem_limit"], name
        image = service["image"].rpartition(":")[2]
        assert name in SERVERS or re.fullmatch(r"v?\d+\.\d+(\.\d+)?", image), f"{name}: a version"
        if name in JOBS:
            assert service["restart"] == "no"
            continue
        assert service["restart"] == "unless-stopped" and service["logging"]["options"]["max-size"], name
        assert "healthcheck" in service or name in SERVERS, name  # chatd's is in the image
        for other, how in service.get("depends_on", {}).items():
            finished = how["condition"] == "service_completed_successfully"
            assert finished == (other in JOBS), f"{name} waits for {other}"


@needs_compose
def test_the_guides_scale_command_can_work(compose):
    for name in SERVERS:
        service = compose["services"][name]
        assert "container_name" not in service and "ports" not in service
        # No volume with a name: two containers would have one data directory.
        assert service["volumes"] == ["/var/lib/chatd"]
        assert service["networks"] == {"front": None, "data": None}, "no address of its own"
        assert service["stop_grace_period"] == "30s"  # above drain_timeout


@needs_compose
def test_the_settings_of_the_containers_are_right(compose):
    env = compose["services"]["chat-server-1"]["environment"]
    assert env == compose["services"]["chat-server-2"]["environment"]
    settings_are_right(env)


@needs_compose
def test_every_mounted_file_is_there(compose):
    for name, service in compose["services"].items():
        for volume in service.get("volumes", ()):
            source, _, target = volume.rpartition(":ro")[0].rpartition(":") if ":ro" in volume else ("", "", "")
            if source.startswith("/"):
                assert Path(source).exists(), f"{name}: {volume}"
    assert set(compose["volumes"]) == {
        volume.split(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", ())
        if not volume.startswith("/")
    }


def dockerfile():
    text = (DOCKER / "Dockerfile").read_text()
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.M).replace("\\\n", " ")
    return [line.split(None, 1) for line in text.splitlines() if line.strip()]


def runtime_packages():
    installed = [what for word, what in dockerfile() if word == "RUN" and "apt-get install" in what]
    return re.search(r"--no-install-recommends\s+(.*?)\s+&&", installed[-1]).group(1).split()


def test_the_image_has_the_libraries_that_chatd_is_linked_to():
    if not shutil.which("dpkg"):
        pytest.skip("no dpkg here: which package a library is of is Debian's to say")
    listed = runtime_packages()
    linked = re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "-d", binary()).stdout)
    places = dict(re.findall(r"(\S+) => (\S+)", run("ldd", binary()).stdout))
    owners = set()
    for library in linked:
        path = places[library]
        owner = run("dpkg", "-S", path)
        # /lib is /usr/lib, but dpkg knows a file by one of the names.
        owner = owner if owner.returncode == 0 else run("dpkg", "-S", "/usr" + path)
        owner = owner if owner.returncode == 0 else run("dpkg", "-S", path.removeprefix("/usr"))
        assert owner.returncode == 0, f"{library} is of no package: {owner.stderr}"
        owners.add(owner.stdout.split(":")[0])
    brought = set(re.findall(r"[\w.+-]+", run("dpkg-query", "-W", "-f=${Depends} ", *listed).stdout))
    assert owners - set(listed) - brought == set(), "missing in the Dockerfile"
    assert set(listed) - owners - {"ca-certificates"} == set(), "needed no more"


def test_the_build_context_has_all_that_make_needs(tmp_path):
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [what.split()[:-1] for word, what in dockerfile() if word == "COPY" and "--from" not in what]
    for source in [source for sources in copied for source in sources]:
        assert any(source == place or source.startswith(place + "/") for place in allowed), source
        target = tmp_path / source
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        copy(ROOT / source, target)
    planned = run("make", "-n", "VERSION=1", "build/chatd", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr


def test_the_image_runs_as_nobody_special():
    words = dict(dockerfile())
    assert words["USER"] == "10001:10001" and words["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(words["CMD"]) == ["chatd"] and "ENTRYPOINT" not in words
    env = dict(re.findall(r"(\w+)=(\S+)", words["ENV"]))
    assert words["VOLUME"] == env["DATA_DIR"] and words["EXPOSE"] == env["PORT"]
    others = ("DATA_DIR", "MONGOC_DISABLE_SHM")  # not there on this machine; the MongoDB driver's
    settings_are_right({name: value for name, value in env.items() if name not in others})
    pod = document("stateful-set.yaml")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["containers"][0]["volumeMounts"][0]["mountPath"] == env["DATA_DIR"]


def test_the_health_check_says_whether_chatd_answers(server2):
    check = DOCKER / "healthcheck"
    assert run(check, env={**os.environ, "PORT": str(server2.port)}).returncode == 0
    assert run(check, env={**os.environ, "PORT": "1"}).returncode != 0


def test_chatd_is_fit_to_be_process_one(tmp_path):
    """In a container nothing stands above the master: it has to collect its workers and to hear TERM."""
    space = ["unshare", "--pid", "--fork", "--kill-child"]
    if run(*space, "true").returncode != 0:
        pytest.skip(f"no namespace for processes can be made here: {run(*space, 'true').stderr.strip()}")
    log = tmp_path / "log"
    env = clean_env({"PORT": 0, "HOST": "127.0.0.1", "MAX_WORKERS": 2, "DATA_DIR": tmp_path, "LOG_FILE": log})
    outside = subprocess.Popen([*space, binary()], env=env, stdin=subprocess.DEVNULL)
    try:
        until(lambda: log.exists() and "listening" in log.read_text(), "chatd listens")
        (master,) = children(outside.pid)
        assert re.search(r"^NSpid:\s+\d+\s+1$", Path(f"/proc/{master}/status").read_text(), re.M)
        first = children(master)[0]
        os.kill(first, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{first}").exists(), "the dead worker was collected, no zombie is left")
        until(lambda: len(children(master)) == 2, "another one was started")
        os.kill(master, signal.SIGTERM)
        until(lambda: not alive(master), "TERM ends it")
        assert outside.wait(DEADLINE) == 0
    finally:
        outside.kill()
        outside.wait()


@needs_compose
def test_the_script_makes_a_cluster_of_the_redis_of_the_compose_file(compose, spawn, tmp_path):
    service = compose["services"]["redis-1"]
    command = service["command"]
    command = command.split() if isinstance(command, str) else command
    assert command[0] == "redis-server"
    password = service["environment"]["REDISCLI_AUTH"]
    nodes = [spawn(ComposeRedis, command[1:], password) for _ in range(6)]
    for node in nodes:
        node.launch()
    for node in nodes:
        node.wait_ready()
    places = " ".join(f"127.0.0.1:{node.port}" for node in nodes)
    env = {**os.environ, "NODES": places, "REDISCLI_AUTH": password}
    for _ in range(2):  # the second time there is nothing to do
        done = run("sh", DOCKER / "redis" / "create-cluster.sh", env=env)
        assert done.returncode == 0, done.stdout + done.stderr
    roles = sorted(node.client().info("replication")["role"] for node in nodes)
    assert roles == ["master"] * 3 + ["slave"] * 3
    assert nodes[0].client().config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    written = yaml.safe_load((DOCKER / "docker-compose.yml").read_text())
    addresses = [f"{written['services'][f'redis-{i}']['networks']['data']['ipv4_address']}:6379" for i in range(1, 7)]
    assert compose["services"]["redis-cluster"]["environment"]["NODES"].split() == addresses
    for address in addresses[:3]:
        assert address in compose["services"]["chat-server-1"]["environment"]["REDIS"]


class ComposeRedis(Redis):
    """A node with the arguments of the compose file; only where it is differs."""

    def __init__(self, arguments, password):
        super().__init__(password=password, start=False)
        self.arguments, self.bus = arguments, Port()

    def command(self):
        here = ["--port", self.port, "--cluster-port", self.bus.number, "--dir", self.data_dir]
        return ["redis-server", *here, "--bind", "127.0.0.1", *self.arguments]

    def close(self):
        super().close()
        self.bus.close()


def test_a_certificate_is_made_where_none_is(tmp_path):
    script = DOCKER / "nginx" / "10-certificate.sh"
    assert os.access(script, os.X_OK), "nginx's image runs only what may be run"
    env = {**os.environ, "TLS_DIR": str(tmp_path), "CHAT_NAME": "chat.example.org"}
    assert run("sh", script, env=env).returncode == 0
    made = (tmp_path / "fullchain.pem").read_text()
    shown = run("openssl", "x509", "-in", tmp_path / "fullchain.pem", "-noout", "-ext", "subjectAltName").stdout
    assert "DNS:chat.example.org" in shown
    assert run("sh", script, env=env).returncode == 0
    assert (tmp_path / "fullchain.pem").read_text() == made, "one that is there stays"


@needs_nginx
def test_nginx_likes_the_files_of_the_containers():
    servers = (DOCKER / "nginx" / "servers.conf.template").read_text()
    names = (DOCKER / "nginx" / "names.conf.template").read_text()
    assert [name for name in SERVERS if f"server {name}:5000 resolve max_fails=0;" in servers] == list(SERVERS)
    # `resolve` and Docker's name server are not here: nginx 1.22 gets the same without them.
    servers = re.sub(r"chat-server-\d:5000 resolve", "127.0.0.1:5000", servers)
    nginx = Nginx([], start=False, texts={"servers.conf": servers, "names.conf": names.replace("${CHAT_NAME}", NAME)})
    try:
        assert nginx.check().returncode == 0, nginx.check().stderr
    finally:
        nginx.close()


# -- Kubernetes ----------------------------------------------------------------------------------------------

OPERATORS = {"PodMonitor"}  # kinds that Kubernetes gets from elsewhere
APART = {"kustomization.yaml", "prometheus-adapter.values.yaml"}  # not for `kubectl apply -f`


def documents(name):
    return list(yaml.safe_load_all((KUBERNETES / name).read_text()))


def document(name):
    (found,) = documents(name)
    return found


def all_documents():
    return [(path.name, one) for path in sorted(KUBERNETES.glob("*.yaml")) if path.name not in APART
            for one in documents(path.name)]


@pytest.mark.parametrize("name, one", all_documents(), ids=lambda v: v if isinstance(v, str) else v["kind"])
def test_kubernetes_knows_every_field(name, one):
    if one["kind"] not in OPERATORS:
        kubernetes_validate.validate(one, "1.37", strict=True)
    assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == "chat"


def test_the_validation_finds_what_is_wrong():
    wrong = document("hpa.yaml")
    wrong["spec"]["maxPods"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


def test_kustomize_has_every_file():
    listed = document("kustomization.yaml")["resources"]
    files = {path.name for path in KUBERNETES.glob("*.yaml")} - APART - {"secret.example.yaml"}
    assert sorted(listed) == sorted(files)


def test_kustomize_puts_it_together():
    if not shutil.which("kubectl"):
        pytest.skip("no kubectl here; it is in no Debian archive")
    done = run("kubectl", "kustomize", KUBERNETES)
    assert done.returncode == 0, done.stderr
    made = list(yaml.safe_load_all(done.stdout))
    assert len(made) == len(all_documents()) - 1  # the example of a Secret
    (pods,) = [one for one in made if one["kind"] == "StatefulSet"]
    image = document("kustomization.yaml")["images"][0]
    assert pods["spec"]["template"]["spec"]["containers"][0]["image"] == f"{image['newName']}:{image['newTag']}"


@pytest.fixture(scope="module")
def pod():
    return document("stateful-set.yaml")["spec"]["template"]


def test_the_pods_settings_are_right(pod):
    container = pod["spec"]["containers"][0]
    named = {source[kind]["name"] for source in container["envFrom"] for kind in source}
    config, secret = document("config.yaml"), document("secret.example.yaml")
    assert named == {config["metadata"]["name"]} | {secret["metadata"]["name"]}
    settings_are_right({**config["data"], **secret["stringData"]})
    assert config["data"]["PORT"] == str(container["ports"][0]["containerPort"])


def test_a_pod_has_time_to_drain(pod):
    drain = document("config.yaml")["data"]["DRAIN_TIMEOUT"]
    assert re.fullmatch(r"\d+s", drain)
    pause = pod["spec"]["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["spec"]["terminationGracePeriodSeconds"] >= pause + int(drain[:-1]) + 15


def test_the_probes_ask_what_chatd_answers(pod, server2):
    container = pod["spec"]["containers"][0]
    for kind, path in (("startup", "live"), ("liveness", "live"), ("readiness", "ready")):
        asked = container[f"{kind}Probe"]["httpGet"]
        assert asked == {"path": f"/health/{path}", "port": container["ports"][0]["name"]}
        assert server2.get(asked["path"])[0] == 200


def test_a_pod_may_do_nothing_it_need_not(pod):
    """The profile `restricted`, which the namespace demands, and more."""
    spec = pod["spec"]
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False
    for container in spec["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False and context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}


def test_selectors_find_the_pods(pod):
    labels = pod["metadata"]["labels"].items()
    budget, hpa, policy, monitor = map(
        document, ("pod-disruption-budget.yaml", "hpa.yaml", "network-policy.yaml", "pod-monitor.yaml")
    )
    stateful = document("stateful-set.yaml")
    selectors = [
        budget["spec"]["selector"]["matchLabels"],
        policy["spec"]["podSelector"]["matchLabels"],
        monitor["spec"]["selector"]["matchLabels"],
        stateful["spec"]["selector"]["matchLabels"],
        *(service["spec"]["selector"] for service in documents("service.yaml")),
        *(spread["labelSelector"]["matchLabels"] for spread in pod["spec"]["topologySpreadConstraints"]),
    ]
    assert all(selector and selector.items() <= labels for selector in selectors)
    port = pod["spec"]["containers"][0]["ports"][0]
    assert {one["port"] for one in monitor["spec"]["podMetricsEndpoints"]} == {port["name"]}
    assert policy["spec"]["ingress"][0]["ports"] == [{"protocol": "TCP", "port": port["containerPort"]}]
    target = hpa["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == (stateful["kind"], stateful["metadata"]["name"])
    assert "replicas" not in stateful["spec"], "each apply would undo the HPA"
    services = {service["metadata"]["name"] for service in documents("service.yaml")}
    assert stateful["spec"]["serviceName"] in services


def test_the_ingress_lets_in_what_the_world_needs_and_no_more(server2):
    ingress = document("ingress.yaml")
    paths = {one["path"]: one["pathType"] for one in ingress["spec"]["rules"][0]["http"]["paths"]}
    # What the page names, and what that loads.
    page = server2.get("/")[2].decode()
    loaded = set(re.findall(r'(?:src|href)="/?([\w.]+\.(?:js|css))"', page))
    loaded |= set(re.findall(r"from '\./([\w.]+)'", server2.get("/chat.js")[2].decode()))
    assert {f"/{name}" for name in loaded} == set(paths) - {"/", "/ws", "/api"}
    assert paths["/"] == "Exact", "else /metrics could be reached"
    (service, *_) = documents("service.yaml")
    for one in ingress["spec"]["rules"][0]["http"]["paths"]:
        assert one["backend"]["service"]["name"] == service["metadata"]["name"]
        assert one["backend"]["service"]["port"]["name"] == service["spec"]["ports"][0]["name"]


# -- Prometheus and Grafana ----------------------------------------------------------------------------------

# Labels that a scrape adds, and the series that Prometheus makes itself.
SCRAPED = {"instance", "job", "namespace", "pod"}
OWN = {"ALERTS": {"alertname", "alertstate", "severity"}}


@pytest.fixture(scope="module")
def series(pool):
    """{name: [labels, …]} of everything that a running chatd says."""
    server = pool(2)
    text = server.get("/metrics", headers={"Accept": "text/plain"})[2].decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def inner(expr):
    """The expressions that one consists of."""
    parts = [getattr(expr, name, None) for name in ("lhs", "rhs", "expr", "param", "vector_selector")]
    parts += list(getattr(expr, "args", None) or [])
    return [part for part in parts if part is not None]


def selectors(expr):
    if isinstance(expr, promql_parser.VectorSelector):
        return [expr]
    return [found for part in inner(expr) for found in selectors(part)]


def named_labels(expr):
    """Labels of `by`, `without`, `on` and their kin, each with the part of the query that should have them."""
    modifier = getattr(expr, "modifier", None)
    if isinstance(expr, promql_parser.AggregateExpr) and modifier:
        yield from ((label, expr.expr) for label in modifier.labels)
    elif isinstance(expr, promql_parser.BinaryExpr) and modifier and modifier.matching:
        for label in modifier.matching.labels:
            yield label, expr
    for part in inner(expr):
        yield from named_labels(part)


def names_of(selector):
    """The series a selector reads, by name or by a list of names."""
    if selector.name:
        return [selector.name]
    (matcher,) = [one for one in selector.matchers.matchers if one.name == "__name__"]
    return matcher.value.split("|")


def labels_of(expr, series):
    found = set(SCRAPED)
    for selector in selectors(expr):
        for name in names_of(selector):
            found |= OWN.get(name, set()).union(*series.get(name, [{}]))
    return found


def faults(query, series):
    """What a query reads that chatd doesn't give."""
    expr = promql_parser.parse(query)
    found = []
    for selector in selectors(expr):
        for name in names_of(selector):
            if name not in series and name not in OWN:
                found.append(f"no series {name}")
                continue
            for matcher in selector.matchers.matchers:
                if matcher.name in SCRAPED | OWN.get(name, set()) | {"__name__"}:
                    continue
                values = {labels.get(matcher.name) for labels in series.get(name, [])}
                found += [
                    f"no {name}{{{matcher.name}={value}}}"
                    for value in matcher.value.split("|")
                    if value not in values
                ]
    for label, part in named_labels(expr):
        if label not in labels_of(part, series) | {"alertname", "alertstate", "severity"}:
            found.append(f"no label {label} in {part.prettify()}")
    return found


def dashboard():
    return json.loads((DEPLOY / "grafana" / "chatd.json").read_text())


# What Grafana puts in, and what it could be.
VARIABLES = {"$__rate_interval": "20s", "$__interval": "5s", "$instance": "10.0.0.11:5000"}


def in_words(query):
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    assert "$" not in query, f"an unknown variable: {query}"
    return query


def queries():
    """Every query of the deployed files, with where it is."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']}", in_words(target["expr"])
    for annotation in dashboard()["annotations"]["list"]:
        yield f"annotation {annotation['name']}", in_words(annotation["expr"])
    rules = yaml.safe_load((DEPLOY / "prometheus" / "chatd.rules.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            yield f"rule {rule['alert']}", rule["expr"]
    for rule in document("prometheus-adapter.values.yaml")["rules"]["custom"]:
        yield "adapter", rule["seriesQuery"]
        template = rule["metricsQuery"].replace("<<.Series>>", rule["name"]["as"])
        template = template.replace("<<.LabelMatchers>>", 'namespace="chat"').replace("<<.GroupBy>>", "pod")
        yield "adapter", template
    for metric in document("hpa.yaml")["spec"]["metrics"]:
        if metric["type"] == "Pods":
            yield "hpa", metric["pods"]["metric"]["name"]


def test_every_query_reads_what_metrics_gives(series):
    found = [(where, query, fault) for where, query in queries() for fault in faults(query, series)]
    assert found == []
    assert len(list(queries())) > 80


WRONG = {
    "rate(chatd_message_total[5m])": "no series chatd_message_total",
    'chatd_closes_total{reason="bored"}': "no chatd_closes_total{reason=bored}",
    'sum(chatd_errors_total{code=~"overloaded|late"})': "no chatd_errors_total{code=late}",
    "sum by (reason) (chatd_messages_total)": "no label reason in chatd_messages_total",
    '{__name__=~"chatd_connections|chatd_people"}': "no series chatd_people",
}


@pytest.mark.parametrize("query", WRONG)
def test_a_wrong_query_is_found(series, query):
    assert faults(query, series) == [WRONG[query]]


def test_the_dashboard_is_whole():
    board = dashboard()
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    taken = {}
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"], "panels overlap"
    assert [one["name"] for one in board["templating"]["list"]] == ["datasource", "instance"]
    sources = {target["datasource"]["uid"] for panel in board["panels"] for target in panel.get("targets", ())}
    assert sources == {"$datasource"}, "it works with whatever Prometheus there is"
    assert all(panel["targets"] for panel in board["panels"] if panel["type"] != "row")


@needs_compose
def test_prometheus_and_grafana_find_what_they_need(compose):
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    for name in config["rule_files"]:
        assert (DEPLOY / "prometheus" / name).exists()
    (found,) = config["scrape_configs"][0]["dns_sd_configs"]
    assert found["names"] == list(SERVERS)
    assert str(found["port"]) == compose["services"]["chat-server-1"]["environment"]["PORT"]
    assert set(compose["services"]["prometheus"]["networks"]) & set(compose["services"]["chat-server-1"]["networks"])
    grafana = [volume.split(":") for volume in compose["services"]["grafana"]["volumes"]]
    places = {target: source for source, target, *_ in grafana}
    provisioning = DEPLOY / "grafana" / "provisioning"
    assert places["/etc/grafana/provisioning"] == str(provisioning)
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "chatd.yml").read_text())["providers"]
    assert places[f"{provider['options']['path']}/chatd.json"] == str(DEPLOY / "grafana" / "chatd.json")
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in compose["services"]


def test_promtool_likes_the_settings_of_prometheus(promtool):  # noqa: F811
    done = run(promtool, "check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
