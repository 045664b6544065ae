#!/bin/sh
# Serves S3 on 127.0.0.1 with moto, in the foreground, for tests/it/s3.rs, and what Google's XML API has in common with
# it for tests/it/clouds.rs.
#
#   tests/services/s3.sh PORT [CACHE_DIRECTORY]
#
# The first run makes a Python environment in the cache directory (default: keepstone/moto below
# $XDG_CACHE_HOME or ~/.cache) and needs the network for it; later ones need none.
#
# moto judges requests, answers, conditional puts, listings with pages, error codes and Object Lock: a locked
# version stays, and a delete without a version only hides it, as with S3 itself. It wants another header than
# S3 does for a put into a bucket with a default retention, so that isn't tried. It can't judge atomicity (it is
# given one request at a time), consistency between servers, durability, real signatures and policies (it accepts
# any credentials), throttling, or how a service behaves under load: one process holds everything in memory. Of
# Google's API it judges what that took over from S3: addresses, listings with pages, puts, gets and deletes; the
# condition on a put is handed over under S3's name, so whether Google's own service honours it isn't shown here.
set -eu

MOTO=5.2.5

port=${1:?"usage: $0 PORT [CACHE_DIRECTORY]"}
cache=${2:-${XDG_CACHE_HOME:-$HOME/.cache}/keepstone/moto}
environment=$cache/moto-$MOTO

. "$(dirname "$0")/../make_once.sh"
make_once "$environment" make_python "$environment" "moto[server]==$MOTO"

# moto looks whether a key exists and then puts it, in as many threads as there are requests: two creates at once
# could both succeed. One request at a time, a condition on a put holds, as it does with S3.
exec "$environment/bin/python" -c '
import threading
import moto.server

dispatch = moto.server.DomainDispatcherApplication.__call__
turn = threading.Lock()

# moto looks at the form of a signature, not at the signature.
SIGNED = "AWS4-HMAC-SHA256 Credential=test-key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"


def in_turn(application, request, start_response):
    if not request.get("HTTP_AUTHORIZATION", "").startswith("AWS4"):
        request["HTTP_AUTHORIZATION"] = SIGNED
    if request.get("HTTP_X_GOOG_IF_GENERATION_MATCH") == "0":
        request["HTTP_IF_NONE_MATCH"] = "*"
    with turn:
        return dispatch(application, request, start_response)


moto.server.DomainDispatcherApplication.__call__ = in_turn
moto.server.main()
' -H 127.0.0.1 -p "$port"
