#!/usr/bin/env bash
# Builds the images cpu and serve, runs them as docs/how-to/docker.md says, and writes a result file.
# It fails when a check or a target fails. It needs docker, or podman, and the network to build:
#
#   tests/container/run.sh [RESULT.json]
#
# ENGINE       runs containers, with its own options; docker, else podman
# BUILD        builds; default "$ENGINE build"
# BASE_IMAGE   in place of the Dockerfile's
# BUILD_FLAGS  more options for a build, such as --volume of a certificate
# RUN_FLAGS    more options for a run; without root, Podman needs --userns=keep-id
# SMALL        makes the training of the phantom short; empty for all of it
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [ -z "${ENGINE:-}" ]; then
  if docker info >/dev/null 2>&1; then ENGINE=docker; else ENGINE=podman; fi
fi
BUILD=${BUILD:-$ENGINE build}
SMALL=${SMALL---set training.epochs=2 --set phantom.count=200 --set phantom.size=96}
RESULT=$(realpath -m "${1:-tests/container/result.json}")
EPOCH=${EPOCH:-$(git log -1 --format=%ct)} # the time that files bear
COMMIT=$(git rev-parse HEAD)
# A caller that no image knows, and who may remove the files at the end.
USER_ID=$(id -u)
if [ "$USER_ID" = 0 ]; then USER_ID=12345; fi

work=$(mktemp -d)
facts=$work/facts
failures=0
running=()
finish() {
  for name in "${running[@]}"; do $ENGINE rm --force "$name" >/dev/null 2>&1 || true; done
  rm -rf "$work" || true
}
trap finish EXIT

# --- What is written down: facts, and checks that pass or fail.

fact() { printf '%s\t%s\n' "$1" "$2" | tee -a "$facts" >&2; }

check() { # NAME COMMAND…
  local name=$1
  shift
  if "$@" >>"$work/log" 2>&1; then fact "check: $name" passed; else
    fact "check: $name" failed
    tail -n 5 "$work/log" >&2
    failures=$((failures + 1))
  fi
}

at_most() { [ "$1" -le "$2" ]; }

# --- Building. A clean copy of the commit is the context, so that it can be changed.

build() { # TARGET TAG [OPTION…]
  local target=$1 tag=$2 started=$SECONDS
  shift 2
  # Podman's own format, that of OCI, has no health check. If only COMMIT has changed, Podman 4.3
  # finds all steps in its cache and keeps the old one, but for a label that differs.
  local kind=(--timestamp="$EPOCH" --format docker)
  kind+=(--label "org.opencontainers.image.revision=$COMMIT")
  case $BUILD in docker*) kind=(--build-arg=SOURCE_DATE_EPOCH="$EPOCH") ;; esac
  # shellcheck disable=SC2086 # the variables hold several words
  $BUILD --target "$target" -t "$tag" --build-arg COMMIT="$COMMIT" "${kind[@]}" \
    ${BASE_IMAGE:+--build-arg BASE_IMAGE=$BASE_IMAGE} ${BUILD_FLAGS:-} "$@" "$work/context" \
    >"$work/build.log" 2>&1 || { tail -n 20 "$work/build.log" >&2; exit 1; }
  took=$((SECONDS - started))
}

layers() { $ENGINE image inspect --format '{{range .RootFS.Layers}}{{println .}}{{end}}' "$1" | grep .; }

megabytes() { echo $(($($ENGINE image inspect --format '{{.Size}}' "$1") / 1000000)); }

mkdir "$work/context"
git archive HEAD | tar -x -C "$work/context"
find "$work/context" -exec touch -h -d "@$EPOCH" {} + # as in a former run, whose layers are kept

build cpu boneage:cpu && fact "build cpu, seconds" "$took"
build serve boneage:serve && fact "build serve, seconds" "$took"
fact "cpu, MB" "$(megabytes boneage:cpu)"
fact "serve, MB" "$(megabytes boneage:serve)"
check "cpu takes at most 2,200 MB" at_most "$(megabytes boneage:cpu)" 2200
check "serve takes at most 600 MB" at_most "$(megabytes boneage:serve)" 600

build serve boneage:again --no-cache && fact "build serve without cache, seconds" "$took"
layers boneage:serve >"$work/first" && layers boneage:again >"$work/second"
fact "layers of serve" "$(wc -l <"$work/first")"
check "two builds of serve have the same layers" cmp "$work/first" "$work/second"

build cpu boneage:cpu && fact "build cpu again without a change, seconds" "$took"
echo "# changed" >>"$work/context/boneage/__init__.py"
build cpu boneage:changed && fact "rebuild cpu after a change of the code, seconds" "$took"
check "a change of the code rebuilds in at most 30 s" at_most "$took" 30
layers boneage:cpu >"$work/first" && layers boneage:changed >"$work/second"
check "only the layer of the code differs" \
  test "$(diff "$work/first" "$work/second" | grep -c '^>')" = 1
git show HEAD:boneage/__init__.py >"$work/context/boneage/__init__.py"
$ENGINE rmi boneage:again boneage:changed >/dev/null

# --- Running: no root, no rights, no network, a root that can't be written.

mkdir "$work/data" "$work/runs"
chmod 777 "$work/data" "$work/runs"
SAFE="--network=none --read-only --tmpfs /tmp --cap-drop=all --security-opt=no-new-privileges"

run() { # OPTION… IMAGE ARGUMENT…
  # shellcheck disable=SC2086
  timeout 1800 $ENGINE run --rm $SAFE --user $USER_ID:$USER_ID -v "$work/data:/data:ro" \
    ${RUN_FLAGS:-} "$@"
}

with_runs() { run -v "$work/runs:/runs" "$@"; }

as_root() { # IMAGE FIND-ARGUMENT…
  local image=$1
  shift
  # shellcheck disable=SC2086
  $ENGINE run --rm --network=none --user 0 ${RUN_FLAGS:-} --entrypoint find "$image" / -xdev "$@"
}

fails_with() { # CODE TEXT COMMAND…: the command fails with this code and says this
  local code=$1 text=$2 found=0
  shift 2
  "$@" >"$work/said" 2>&1 || found=$?
  cat "$work/said"
  [ "$found" = "$code" ] && grep -qF -e "$text" "$work/said"
}

start() { # NAME OPTION… IMAGE ARGUMENT…: starts a container; its output goes to $work/NAME
  local name=$1
  shift
  running+=("$name")
  with_runs --name "$name" "$@" >"$work/$name" 2>&1 &
  process=$!
}

says() { # NAME TEXT: waits until a container says this
  for _ in $(seq 600); do
    if grep -qF -e "$2" "$work/$1"; then return; fi
    kill -0 "$process" 2>/dev/null || break
    sleep 0.5
  done
  cat "$work/$1"
  return 1
}

stop() { # NAME CODE: SIGTERM ends a container with this code, within 30 s
  local found=0 began=$SECONDS
  $ENGINE kill --signal TERM "$1" >/dev/null
  wait "$process" || found=$?
  cat "$work/$1"
  echo "exit code $found after $((SECONDS - began)) s"
  [ "$found" = "$2" ] && [ $((SECONDS - began)) -le 30 ]
}

for image in cpu serve; do
  as_root "boneage:$image" -type f -perm /6000 >"$work/found" || true
  fact "setuid and setgid files in $image" "$(paste -sd' ' "$work/found")"
  check "$image has no setuid and setgid files" test ! -s "$work/found"
  as_root "boneage:$image" '(' -type f -o -type d ')' -perm -0002 >"$work/found" || true
  fact "world-writable files and folders in $image" "$(sort "$work/found" | paste -sd' ')"
  check "only /runs and folders for temporary files are world-writable in $image" \
    test -z "$(grep -vxE '/runs|/tmp|/var/tmp|/run/lock|/var/lock' "$work/found")"
  check "$image does not run as root" \
    test "$($ENGINE image inspect --format '{{.Config.User}}' "boneage:$image")" = 10001:10001
  check "$image names its commit" test "$COMMIT" = "$($ENGINE image inspect \
    --format '{{index .Config.Labels "org.opencontainers.image.revision"}}' "boneage:$image")"
done
fact "Python" "$(run --entrypoint python3 boneage:cpu -c 'import platform; print(platform.python_version())')"
fact "boneage" "$(run boneage:cpu --version)"

began=$SECONDS
# shellcheck disable=SC2086
check "cpu trains the phantom" with_runs boneage:cpu train phantom --out /runs/phantom $SMALL
fact "train the phantom ($SMALL), seconds" $((SECONDS - began))
check "there is a report" test -s "$work/runs/phantom/report.html"
check "the files belong to the caller" \
  test "$(stat -c %u "$work/runs/phantom/report.html")" = $USER_ID
check "a format that the image lacks is refused" \
  fails_with 2 "outside of the image cpu" with_runs boneage:cpu export /runs/phantom --format openvino --out /runs/openvino
check "a folder that can't be written is refused" \
  fails_with 2 "writ" run boneage:cpu train phantom --out /data/run
check "cpu draws radiographs" with_runs boneage:cpu data phantom /runs/cohort --count 10 --size 256
cp -r "$work/runs/cohort/images" "$work/data/"
hand=/data/images/$(cd "$work/data/images" && find . -name '*.png' | sort | head -n 1)

start training boneage:cpu train phantom --out /runs/stopped --set training.epochs=200 \
  --set phantom.count=200 --set phantom.size=96
check "a training starts" says training "Epoch 2/"
check "SIGTERM ends a training with 143" stop training 143
check "it says how to continue" grep -qF "boneage train --resume /runs/stopped" "$work/training"
start drawing boneage:cpu data phantom /runs/many --count 100000
sleep 20
check "SIGTERM ends drawing with 143" stop drawing 143
start watching boneage:serve predict rsna-best --watch /runs/cohort --out /runs/answers.jsonl
sleep 20
check "SIGTERM ends a watched folder with 143" stop watching 143

running+=(lost)
# shellcheck disable=SC2086
timeout 600 $ENGINE run --rm --name lost --network=none ${RUN_FLAGS:-} boneage:cpu \
  train phantom >"$work/lost" 2>&1 &
process=$!
check "without a volume the training warns" says lost "is on no volume"
check "the warning does not stop it, SIGTERM does" stop lost 143

check "serve predicts" run boneage:serve predict rsna-best "$hand" --sex F
check "serve without a token refuses to start" fails_with 2 "--token" run boneage:serve
check "serve can't train, and says why" \
  fails_with 2 "outside of the image serve" run boneage:serve train phantom
start server -e BONEAGE_TOKEN=secret boneage:serve
ask() { $ENGINE exec server python3 -c "$1" "$hand"; }
ready='
import time, urllib.request
for _ in range(240):
    try:
        raise SystemExit(urllib.request.urlopen("http://127.0.0.1:8000/readyz").status != 200)
    except OSError:
        time.sleep(0.5)
raise SystemExit(1)'
answer='
import json, sys, urllib.request
image = open(sys.argv[1], "rb").read()
parts = (b"image\"; filename=\"hand.png", image), (b"sex", b"F")
form = b"".join(b"--X\r\nContent-Disposition: form-data; name=\"%s\"\r\n\r\n%s\r\n" % p for p in parts)
head = {"Content-Type": "multipart/form-data; boundary=X", "Authorization": "Bearer secret"}
address = "http://127.0.0.1:8000/v1/predict"
asked = urllib.request.Request(address, form + b"--X--\r\n", head)
found = json.load(urllib.request.urlopen(asked))
print(found)
raise SystemExit("research" not in json.dumps(found).lower())'
check "the server says where it listens" says server "http"
check "the server is ready" ask "$ready"
check "the server answers a radiograph" ask "$answer"
case $ENGINE in
  docker*) check "the health check passes" timeout 120 bash -c \
    'until [ "$(docker inspect --format "{{.State.Health.Status}}" server)" = healthy ]; do sleep 2; done' ;;
  *) check "the health check passes" $ENGINE healthcheck run server ;;
esac
check "SIGTERM ends the server with 0" stop server 0

# --- The result.

python3 - "$facts" "$RESULT" "$COMMIT" "$ENGINE" "$failures" <<'PYTHON'
import datetime, json, os, pathlib, platform, sys

facts, result, commit, engine, failures = sys.argv[1:]
rows = [line.split("\t") for line in pathlib.Path(facts).read_text().splitlines()]
document = {
    "commit": commit,
    "date": datetime.date.today().isoformat(),
    "engine": pathlib.Path(engine.split()[0]).name,
    "base_image": os.environ.get("BASE_IMAGE", "the Dockerfile's"),
    "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    "failed": int(failures),
    **{name: int(value) if value.isdigit() else value for name, value in rows},
}
pathlib.Path(result).write_text(json.dumps(document, indent=2) + "\n")
PYTHON
echo "written: $RESULT; $failures checks failed"
[ "$failures" = 0 ]
