#!/bin/sh
# A client in shell, with curl: client.sh SOCKET publish|beat|commands [AFTER]
set -eu
api='curl --silent --show-error --fail-with-body --no-buffer --unix-socket'
case $2 in
    publish) exec $api "$1" --data '{"celsius":22.5}' 'http://localhost/v1/publish?topic=room/2' ;;
    beat) exec $api "$1" --request POST http://localhost/v1/heartbeat ;;
    commands) exec $api "$1" "http://localhost/v1/commands?after=${3:-0}" ;; # a line for each, as they come
esac
