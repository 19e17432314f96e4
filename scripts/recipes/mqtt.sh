#!/bin/sh
# Readings of all nodes in an MQTT broker, as Home Assistant discovers them; and from MQTT back into this node.
#
#   mqtt.sh        runs until SIGTERM or SIGINT; one of the hosts is enough
#
# Settings come from the environment:
#   MQTT_HOST, MQTT_PORT   the broker [localhost, 1883]; a password, TLS and the like belong into the files
#                          ~/.config/mosquitto_pub and ~/.config/mosquitto_sub, an option a line, mode 600
#   MQTT_SET               keys from MQTT begin with this, such as mqtt/ [none: nothing is taken from MQTT]
#   MQTT_BASE              what own topics begin with [dsn]
#   MQTT_DISCOVERY         what Home Assistant looks under [homeassistant]
#   MQTT_PROBE             seconds between looks at broker and node [15]
#   MQTT_WITHIN            seconds that the broker or the node may take to answer [5]
#
# Topics, all retained, with NODE and KEY in which A-Z a-z 0-9 - stay, _ is __, each other byte _XX:
#   BASE/state/NODE/KEY    the value, byte for byte; None where it is empty
#   BASE/status/NODE       online, or offline for a node that is lost or left
#   BASE/bridge/NODE       the same of this script, by a will that the broker keeps
#   BASE/probe/NODE        shows this script whether the broker still has what it was sent
#   DISCOVERY/sensor/NODE/KEY/config
#   BASE/set/NODE/K        what others send there becomes the key MQTT_SET + K of this node; nothing: unset
#
# Needs mosquitto_pub and mosquitto_sub (Debian: mosquitto-clients), 1.6 or newer. Exit codes: 0 ended
# by a signal, 1 it can't go on, such as a socket that this user may not open, 2 wrong usage. A broker or
# a node that does not answer is waited for. After kill -9 what it started goes on: end that, too.
set -eu
export LC_ALL=C

case ${1-} in -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac

dsn=${DSN_BIN:-dsn}
host=${MQTT_HOST:-localhost} port=${MQTT_PORT:-1883}
base=${MQTT_BASE:-dsn} discovery=${MQTT_DISCOVERY:-homeassistant}
prefix=${MQTT_SET-} probe=${MQTT_PROBE:-15} within=${MQTT_WITHIN:-5}
# Of one message from MQTT, and how many keys all of them can make: the state has room for 1 MiB.
bytes_max=4096 keys_max=128
# Topics that are looked at to find those of keys that are gone.
topics_max=20000

say() { printf 'mqtt.sh: %s\n' "$*" >&2; }
usage() {
    say "$1"
    sed -n 's/^#   //p' "$0" | head -n 1 >&2
    exit 2
}

# A text as one level of a topic: nothing in it means anything to MQTT, and no two texts become one.
encode() {
    case $1 in *[!A-Za-z0-9-]*) ;; *) printf '%s' "$1" && return ;; esac
    printf '%s' "$1" | od -An -v -tu1 | awk '{
        for (i = 1; i <= NF; i++)
            if ($i == 95) printf "__"
            else if ($i == 45 || $i >= 48 && $i <= 57 || $i >= 65 && $i <= 90 || $i >= 97 && $i <= 122) printf "%c", $i + 0
            else printf "_%02X", $i
    }'
}

# The text that a level of a topic stands for. What printf sees as a format are octal digits that were made here.
decode() {
    decoded=$(printf '%s\n' "$1" | awk '{
        digits = "0123456789ABCDEF"
        for (i = 1; i <= length($0); i++) {
            if (substr($0, i, 1) != "_") printf "%s", substr($0, i, 1)
            else if (substr($0, ++i, 1) == "_") printf "_"
            else {
                byte = 16 * (index(digits, substr($0, i, 1)) - 1) + index(digits, substr($0, i + 1, 1)) - 1
                i++
                if (byte >= 0 && byte < 256) printf "\\0%03o", byte
            }
        }
    }')
    printf '%b' "$decoded"
}
unhex() { decode "$(printf '%s\n' "$1" | tr a-f A-F | sed 's/../_&/g')"; }

# A text inside the quotes of JSON. Keys and ids have no control characters.
json() { printf '%s' "$1" | sed 's/[\"]/\\&/g'; }

# Nothing may hang. A hook has its time from `dsn on`, which kills all of it: `timeout` would be a group of its own.
limit="timeout $within"
[ "${1-}" != --hook ] || limit=
# Publishes stdin, so no value is ever an argument.
publish() { $limit mosquitto_pub -h "$host" -p "$port" -q 1 -r -t "$1" -s; }
clear() { $limit mosquitto_pub -h "$host" -p "$port" -q 1 -r -t "$1" -n; }
ask() { $limit "$dsn" "$@"; }

is_number() {
    case ${1#-} in '' | *[!0-9.]* | *.*.* | .) return 1 ;; esac
}

# What Home Assistant is told of a number, by the end of its name, or else of what stands before the first /.
unit() {
    case $1 in
        *_c | *_celsius) class=temperature unit=°C ;;
        *humidity*) class=humidity unit=% ;;
        *_percent | *_pct) class='' unit=% ;;
        *_hpa) class=pressure unit=hPa ;;
        *_lx | *_lux) class=illuminance unit=lx ;;
        *_ppm) class='' unit=ppm ;;
        *_v | *_volt) class=voltage unit=V ;;
        *_a) class=current unit=A ;;
        *_w | *_watt) class=power unit=W ;;
        *_hz) class=frequency unit=Hz ;;
        *_bytes) class=data_size unit=B ;;
        *_kb) class=data_size unit=kB ;;
        *_mb) class=data_size unit=MB ;;
        *_ms) class=duration unit=ms ;;
        *_s | *_seconds) class=duration unit=s ;;
        */*) unit "${1%%/*}" && return ;;
        *) class='' unit='' ;;
    esac
    printf '"state_class":"measurement",'
    [ -z "$unit" ] || printf '"unit_of_measurement":"%s",' "$unit"
    [ -z "$class" ] || printf '"device_class":"%s",' "$class"
}

config() {
    printf '{"name":"%s",' "$(json "$DSN_KEY")"
    printf '"unique_id":"dsn.%s.%s","state_topic":"%s",' "$node" "$key" "$base/state/$node/$key"
    ! is_number "${DSN_VALUE-}" || unit "$DSN_KEY"
    # It takes no longer states than this.
    printf '"value_template":"{{ value[:255] }}",'
    printf '"availability_mode":"all","availability":[{"topic":"%s"},{"topic":"%s"}],' \
        "$MQTT_BRIDGE" "$base/status/$node"
    printf '"device":{"identifiers":["dsn.%s"],"name":"%s","manufacturer":"dsn"}}' "$node" "$DSN_NODE"
}

# One change, as `dsn on` hands it on. The first publish that fails ends it (set -e), and it is tried again.
hook() {
    node=$(encode "$DSN_NODE")
    case $DSN_EVENT in
        joined) printf online | publish "$base/status/$node" ;;
        lost | left) printf offline | publish "$base/status/$node" ;;
        updated)
            key=$(encode "$DSN_KEY")
            if [ -z "${DSN_VALUE_BASE64+is there}${DSN_VALUE+is there}" ]; then
                is_gone "$DSN_NODE" "$DSN_KEY" || :
                remove "$node/$key"
                return
            fi
            # What it is told of a key changes where it becomes a number, or is none any more.
            was=new is=text
            [ -z "${DSN_OLD_BASE64+is there}${DSN_OLD+is there}" ] || was=text
            ! is_number "${DSN_OLD-}" || was=number
            ! is_number "${DSN_VALUE-}" || is=number
            # After a failure the old value is one that may not have come through.
            [ -f "${MQTT_GOOD-}" ] || was=unknown
            [ "$was" = "$is" ] || config | publish "$discovery/sensor/$node/$key/config"
            if [ -n "${DSN_VALUE_BASE64+is there}" ]; then
                printf '%s' "$DSN_VALUE_BASE64" | base64 -d | publish "$base/state/$node/$key"
            else
                printf '%s' "${DSN_VALUE:-None}" | publish "$base/state/$node/$key"
            fi
            ;;
    esac
}

# Whether the node says that there is no such key; what it says stays in `answer`.
is_gone() {
    code=0
    answer=$(ask get -- "$1" "$2" 2>&1 >/dev/null) || code=$?
    # A node that does not answer knows nothing of it.
    case $code$answer in 1*' has no key '* | 1*' is known here'*) ;; *) return 1 ;; esac
}

# The topics of a key, and of a node that is forgotten its status. What is announced goes last: `sweep` finds it.
remove() {
    case $answer in *' is known here'*) clear "$base/status/${1%%/*}" || return ;; esac
    clear "$base/state/$1" && clear "$discovery/sensor/$1/config"
}

if [ "${1-}" = --hook ] && [ -n "${DSN_EVENT-}" ] && [ -n "${MQTT_BRIDGE-}" ]; then
    trap 'rm -f "${MQTT_GOOD-}"' EXIT
    trap 'exit 1' INT TERM
    hook
    trap - EXIT
    exit
fi
[ $# -eq 0 ] || usage "there is no option $1"
for number in "PROBE=$probe" "WITHIN=$within" "PORT=$port"; do
    case ${number#*=} in
        0* | *[!0-9]* | ??????*) usage "MQTT_$number is not a number that it can be" ;;
    esac
done
[ "$port" -le 65535 ] || usage "MQTT_PORT=$port is no port"
case $prefix in [!A-Za-z0-9]* | *=*) usage "MQTT_SET=$prefix has to begin with a letter or a digit, without =" ;; esac
case $base$discovery in *[!A-Za-z0-9/_-]*) usage "MQTT_BASE and MQTT_DISCOVERY take A-Z a-z 0-9 / _ -" ;; esac
command -v "$dsn" >/dev/null || usage "there is no $dsn: install it, or name it with DSN_BIN"
for tool in mosquitto_pub mosquitto_sub; do
    command -v "$tool" >/dev/null || usage "there is no $tool: apt-get install mosquitto-clients"
done

# Keys that went while nobody looked: their topics are still there. Others, such as a second network,
# announce here, too; what is removed names the bridge that this is.
sweep() {
    mine="s|^\([^ ]*\) .*\[{\"topic\":\"$bridge\"},.*|\1|p"
    found=$(timeout 10 mosquitto_sub -h "$host" -p "$port" -t "$discovery/sensor/+/+/config" \
        --retained-only -W 5 -F '%t %p' 2>/dev/null | sed -n "$mine" | head -n "$topics_max") || return 0
    while IFS= read -r topic; do
        place=${topic#"$discovery/sensor/"} place=${place%/config}
        case $place in '' | *[!A-Za-z0-9/_-]* | */*/*) continue ;; esac
        owner=$(decode "${place%%/*}")
        name=$(decode "${place#*/}.")
        is_gone "$owner" "${name%.}" || continue
        remove "$place" || return 0
        # It came meanwhile, and its topics went: all is told anew.
        ! ask get -- "$owner" "${name%.}" >/dev/null 2>&1 || kill "$hooks" 2>/dev/null || :
    done <<EOF
$found
EOF
}

# What comes from MQTT: hex digits of the payload, a blank, the topic.
take() {
    said=0
    while IFS= read -r line; do
        hex=${line%% *} topic=${line#* }
        name=${topic#"$base/set/$own/"}
        { [ -n "$name" ] && [ "$name" != "$topic" ]; } || continue
        if ! fault=$(change "$prefix$name" 2>&1) && [ "$said" -lt 100 ]; then
            said=$((said + 1))
            say "$(encode "$name") from MQTT was not taken: $fault"
            [ "$said" -lt 100 ] || say "no more of these are told until the next start"
        fi
        # Each is a write to the disk: ten a second at most.
        sleep 0.1
    done
}

change() {
    case $1 in *=*) echo "no key has ="; return 1 ;; esac
    [ "${#hex}" -le $((2 * bytes_max)) ] || { echo "more than $bytes_max bytes"; return 1; }
    if [ -z "$hex" ]; then
        ask unset -- "$1" >/dev/null || return 1
        return 0
    fi
    if ! ask get self -- "$1" >/dev/null 2>&1 &&
        [ "$(ask get self --prefix "$prefix" 2>/dev/null | wc -l)" -ge "$keys_max" ]; then
        echo "there are $keys_max keys from MQTT already"
        return 1
    fi
    unhex "$hex" | ask set -- "$1" -
}

runs() { [ -n "$1" ] && kill -0 "$1" 2>/dev/null; }
# Again and again: a signal is lost on who was just started by a shell, and a second one hurries `dsn on`.
end() {
    while runs "$1"; do
        kill "-${2:-TERM}" "$1" 2>/dev/null || :
        sleep 0.1
    done
}

hooks='' holder='' subscriber='' taker='' sweeper='' good=''
finish() {
    trap - EXIT INT TERM
    end "$sweeper" KILL
    end "$hooks"
    # Said by hand, as a client that leaves in order has no will.
    [ -z "${bridge-}" ] || printf offline | publish "$bridge" 2>/dev/null || :
    # One that connects to a broker that does not answer hears of no other signal.
    end "$holder" KILL
    end "$subscriber" KILL
    end "$taker" KILL
    [ -z "$good" ] || rm -f "$good"
    exit "$1"
}
trap 'finish 0' INT TERM
trap 'finish $?' EXIT

pause() {
    sleep "$probe" &
    wait $! || :
}

# Of a fault that lasts one line is enough.
last=''
once() {
    [ "$last" = "$1" ] || say "$1"
    last=$1
}

# Whether the node answers; what it says is in `status`. Whom it refuses need not wait.
is_there() {
    code=0
    status=$(ask --json status 2>&1) || code=$?
    case $code$status in
        0*) return 0 ;;
        3* | 124* | 143* | *' gave no answer in time'*) once "no node answers; it is waited for: $status" && return 1 ;;
    esac
    say "$status"
    exit 1
}

until is_there; do
    pause
done
id=$(printf '%s\n' "$status" | sed -n 's/.*"node_id":"\([^"]*\)".*/\1/p')
own=$(encode "$id")
bridge=$base/bridge/$own
export MQTT_BRIDGE="$bridge" MQTT_HOST="$host" MQTT_PORT="$port" MQTT_BASE="$base" MQTT_DISCOVERY="$discovery"

# A connection that holds the will: one that hears commands may be flooded. It is sent what is retained
# each time it connects, so with the second message, after a broker or a network that was away, it ends.
hold() {
    mosquitto_sub -h "$host" -p "$port" --will-topic "$bridge" --will-payload offline --will-retain --will-qos 1 \
        -t "$base/probe/$own" -C 2 >/dev/null 2>&1 &
    holder=$!
}

# The broker sends nothing that is larger: a topic and its payload.
subscribe() {
    end "$subscriber" KILL
    end "$taker" KILL
    folder=$(mktemp -d)
    mkfifo "$folder/from-mqtt"
    # Both ways, so that nobody waits for the other, and nobody needs its name any more (Linux).
    exec 3<>"$folder/from-mqtt"
    rm -rf "$folder"
    mosquitto_sub -V mqttv5 -h "$host" -p "$port" -D connect maximum-packet-size $((bytes_max + 2048)) -q 1 \
        -t "$base/set/$own/#" -F '%x %t' >&3 2>/dev/null &
    subscriber=$!
    take <&3 &
    taker=$!
    exec 3>&-
}

# All that is there, to a broker of which nothing is known.
publish_all() {
    end "$hooks"
    end "$holder" KILL
    hooks='' holder=''
    sent=$((sent + 1)) looks=0
    if ! why=$(printf '%s' "$start.$sent" | publish "$base/probe/$own" 2>&1); then
        # The second is a word of busybox.
        case $why in '' | Terminated) why="no answer in $within s" ;; esac
        once "the broker at $host, port $port, does not take it, and is waited for: $why"
        return
    fi
    hold
    # Where one of these fails, the next look finds it.
    printf online | publish "$base/status/$own" 2>/dev/null && printf online | publish "$bridge" 2>/dev/null || return 0
    once "all that is there goes to $host, port $port"
    [ -z "$good" ] || rm -f "$good"
    # Stays while no hook fails.
    MQTT_GOOD=$(mktemp) || MQTT_GOOD=
    good=$MQTT_GOOD
    export MQTT_GOOD
    # With some 60 s between them: a fault that stays costs little, and one that goes costs no value.
    RUST_LOG=warn "$dsn" on --initial --retry 1000 --timeout 20s -- sh "$0" --hook &
    hooks=$!
}

# A broker that took the connection for dead does not say online; one that was started anew, maybe with
# what it had saved some time ago, has ended the holder, or does not have what was sent last.
is_kept() {
    seen=$($limit mosquitto_sub -h "$host" -p "$port" -t "$bridge" -t "$base/probe/$own" -C 2 -W 3 2>/dev/null |
        sort | tr '\n' ' ')
    [ "$seen" = "$start.$sent online " ]
}

start=$(date +%s) sent=0 looks=0
while :; do
    if ! is_there; then
        printf offline | publish "$bridge" 2>/dev/null || :
    else
        [ -z "$prefix" ] || { runs "$subscriber" && runs "$taker"; } || subscribe
        { runs "$hooks" && runs "$holder" && is_kept; } || publish_all
        looks=$((looks + 1))
        # Not at once: a node that was just started does not know all others yet.
        if [ $((looks % 240)) = 2 ] && ! runs "$sweeper"; then
            sweep &
            sweeper=$!
        fi
    fi
    pause
done
