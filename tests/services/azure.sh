#!/bin/sh
# Serves Azure Blob Storage on 127.0.0.1 with Azurite, with one empty container `test`, for tests/it/clouds.rs.
#
#   tests/services/azure.sh PORT [CACHE_DIRECTORY]
#
# The first run installs Azurite from npm into the cache directory (default: keepstone/azurite below $XDG_CACHE_HOME or
# ~/.cache) and needs the network for it; later ones need none.
#
# Azurite is the emulator that the service's makers write. It judges requests, signatures with an account's key,
# answers, conditional puts, listings and error codes. It can't judge durability, consistency between servers, other
# kinds of credentials, policies, throttling, or how the service behaves under load: one process holds everything in
# memory.
set -eu

AZURITE=3.35.0

port=${1:?"usage: $0 PORT [CACHE_DIRECTORY]"}
cache=${2:-${XDG_CACHE_HOME:-$HOME/.cache}/keepstone/azurite}
environment=$cache/azurite-$AZURITE

install() {
    mkdir "$environment"
    npm install --loglevel=error --no-audit --no-fund --ignore-scripts --prefix "$environment" "azurite@$AZURITE"
}

. "$(dirname "$0")/../make_once.sh"
make_once "$environment" install

node "$environment/node_modules/.bin/azurite-blob" --silent --inMemoryPersistence --disableTelemetry \
    --skipApiVersionCheck --blobHost 127.0.0.1 --blobPort "$port" &
trap 'kill $! 2>/dev/null || true' EXIT

# The account and key are those that Azurite documents.
python3 -c '
import base64, hashlib, hmac, http.client, sys, time
from email.utils import formatdate

port, account = int(sys.argv[1]), "devstoreaccount1"
key = base64.b64decode("Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==")
for attempt in range(600):
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    signed = "".join(f"{name}:{value}\n" for name, value in headers.items())
    text = "PUT" + "\n" * 12 + signed + f"/{account}/{account}/test\nrestype:container"
    signature = base64.b64encode(hmac.new(key, text.encode(), hashlib.sha256).digest()).decode()
    headers |= {"Authorization": f"SharedKey {account}:{signature}", "Content-Length": "0"}
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("PUT", f"/{account}/test?restype=container", headers=headers)
        answer = connection.getresponse()
    except ConnectionRefusedError:
        time.sleep(0.1)
        continue
    sys.exit(0 if answer.status == 201 else f"making the container: {answer.status} {answer.read()}")
sys.exit("the server did not start")
' "$port"
wait
