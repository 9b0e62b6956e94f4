#!/bin/sh
# Makes one cluster of the servers in $NODES (host:port …), half of them replicas. Run again it changes nothing.
# The password is in $REDISCLI_AUTH, where redis-cli looks for it.
set -eu
first=${NODES%% *}
state() { redis-cli -h "${first%:*}" -p "${first##*:}" cluster info | tr -d '\r' | sed -n 's/^cluster_state://p'; }

if [ "$(state)" != ok ]; then
    # shellcheck disable=SC2086 # one argument for each node
    redis-cli --cluster create $NODES --cluster-replicas 1 --cluster-yes
fi
tries=0
until [ "$(state)" = ok ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 60 ] || { echo "the cluster is not well after a minute" >&2; exit 1; }
    sleep 1
done
