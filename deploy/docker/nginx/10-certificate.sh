#!/bin/sh
# Run by nginx's image before nginx: a certificate for a try, if there is none.
set -eu
tls=${TLS_DIR:-/etc/nginx/tls}
[ ! -s "$tls/fullchain.pem" ] || exit 0
echo "chatd: no $tls/fullchain.pem: making a certificate for $CHAT_NAME that nobody trusts"
umask 077
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=$CHAT_NAME" \
    -addext "subjectAltName=DNS:$CHAT_NAME" -keyout "$tls/privkey.pem" -out "$tls/fullchain.pem"
