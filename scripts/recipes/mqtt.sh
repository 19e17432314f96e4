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
#
# Topics, all retained, with NODE and KEY in which A-Z a-z 0-9 - stay, _ is __, each other byte _XX:
#   BASE/state/NODE/KEY    the value, byte for byte; None where it is empty
#   BASE/status/NODE       online, or offline for a node that is lost or left
#   BASE/bridge/NODE       the same of this script, by a will that the broker keeps
#   DISCOVERY/sensor/NODE/KEY/config
#   BASE/set/NODE/K        what others send there becomes the key MQTT_SET + K of this node; nothing: unset
#
# Needs mosquitto_pub and mosquitto_sub (Debian: mosquitto-clients), 1.6 or newer. Exit codes: 0 ended
# by a signal, 2 wrong usage. A broker or a node that does not answer is waited for.
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
prefix=${MQTT_SET-} probe=${MQTT_PROBE:-15}
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

# Bytes of hex digits. What printf sees as a format are octal digits that were made here.
unhex() {
    octal=$(printf '%s\n' "$1" | awk '{
        digits = "0123456789abcdef"; hex = tolower($0)
        for (i = 1; i < length(hex); i += 2) {
            byte = 16 * (index(digits, substr(hex, i, 1)) - 1) + index(digits, substr(hex, i + 1, 1)) - 1
            printf "\\0%03o", byte
        }
    }')
    printf '%b' "$octal"
}

# The text that a level of a topic stands for.
decode() {
    decoded=$(printf '%s\n' "$1" | awk '{
        digits = "0123456789ABCDEF"
        for (i = 1; i <= length($0); i++) {
            if (substr($0, i, 1) != "_") printf "%s", substr($0, i, 1)
            else if (substr($0, ++i, 1) == "_") printf "_"
            else {
                byte = 16 * (index(digits, substr($0, i, 1)) - 1) + index(digits, substr($0, i + 1, 1)) - 1
                i++
                if (byte > 0 && byte < 256) printf "\\0%03o", byte
            }
        }
    }')
    printf '%b' "$decoded"
}

# A text inside the quotes of JSON. Keys and ids have no control characters.
json() { printf '%s' "$1" | sed 's/[\"]/\\&/g'; }

# Publishes stdin, so no value is ever an argument.
publish() { mosquitto_pub -h "$host" -p "$port" -q 1 -r -t "$1" -s; }
clear() { mosquitto_pub -h "$host" -p "$port" -q 1 -r -t "$1" -n; }

is_number() {
    case ${1#-} in '' | *[!0-9.]* | *.*.* | .) return 1 ;; esac
}

# What Home Assistant is told of a number, by the end of its name.
unit() {
    case ${1%%/*} in
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

# One change, as `dsn on` hands it on.
hook() {
    node=$(encode "$DSN_NODE")
    case $DSN_EVENT in
        joined) printf online | publish "$base/status/$node" ;;
        lost | left) printf offline | publish "$base/status/$node" ;;
        updated)
            key=$(encode "$DSN_KEY")
            if [ -n "${DSN_VALUE_BASE64+is there}" ]; then
                printf '%s' "$DSN_VALUE_BASE64" | base64 -d | publish "$base/state/$node/$key"
            elif [ -z "${DSN_VALUE+is there}" ]; then
                remove "$node/$key" && return 0
            elif [ -z "$DSN_VALUE" ]; then
                printf None | publish "$base/state/$node/$key"
            else
                printf '%s' "$DSN_VALUE" | publish "$base/state/$node/$key"
            fi
            # What it is told of a key changes where it becomes a number, or is none any more.
            was=new is=text
            [ -z "${DSN_OLD_BASE64+is there}${DSN_OLD+is there}" ] || was=text
            ! is_number "${DSN_OLD-}" || was=number
            ! is_number "${DSN_VALUE-}" || is=number
            [ "$was" = "$is" ] || config | publish "$discovery/sensor/$node/$key/config"
            ;;
    esac
}

# The state goes last: it is what `sweep` finds.
remove() { clear "$discovery/sensor/$1/config" && clear "$base/state/$1"; }

if [ "${1-}" = --hook ] && [ -n "${DSN_EVENT-}" ] && [ -n "${MQTT_BRIDGE-}" ]; then
    hook
    exit
fi
[ $# -eq 0 ] || usage "there is no option $1"
case $probe in '' | 0* | *[!0-9]*) usage "MQTT_PROBE=$probe is not a number of seconds" ;; esac
case $prefix in [!A-Za-z0-9]* | *=*) usage "MQTT_SET=$prefix has to begin with a letter or a digit, without =" ;; esac
case $base$discovery in *[!A-Za-z0-9/_-]*) usage "MQTT_BASE and MQTT_DISCOVERY take A-Z a-z 0-9 / _ -" ;; esac
command -v "$dsn" >/dev/null || usage "there is no $dsn: install it, or name it with DSN_BIN"
for tool in mosquitto_pub mosquitto_sub; do
    command -v "$tool" >/dev/null || usage "there is no $tool: apt-get install mosquitto-clients"
done

# Keys that went while nobody looked: their topics are still there.
sweep() {
    mosquitto_sub -h "$host" -p "$port" -t "$base/state/+/+" --retained-only -W 3 -F '%t' 2>/dev/null |
        head -n "$topics_max" | while IFS= read -r topic; do
        place=${topic#"$base/state/"}
        # Somebody else's.
        case $place in *[!A-Za-z0-9/_-]*) continue ;; esac
        owner=$(decode "${place%%/*}")
        name=$(decode "${place#*/}.")
        code=0
        answer=$("$dsn" get -- "$owner" "${name%.}" 2>&1 >/dev/null) || code=$?
        # 1 is no such key or node; a node that does not answer knows nothing of it.
        [ "$code" = 1 ] || continue
        case $answer in *' has no key '* | *' is known here'*) remove "$place" || : ;; esac
        # It came meanwhile, and its topics went: all is told anew.
        ! "$dsn" get -- "$owner" "${name%.}" >/dev/null 2>&1 || kill "$hooks" 2>/dev/null || :
    done
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
        "$dsn" unset -- "$1" >/dev/null || return 1
        return 0
    fi
    if ! "$dsn" get self -- "$1" >/dev/null 2>&1 &&
        [ "$("$dsn" get self --prefix "$prefix" 2>/dev/null | wc -l)" -ge "$keys_max" ]; then
        echo "there are $keys_max keys from MQTT already"
        return 1
    fi
    unhex "$hex" | "$dsn" set -- "$1" -
}

runs() { [ -n "$1" ] && kill -0 "$1" 2>/dev/null; }
end() {
    ! runs "$1" || kill "$1" 2>/dev/null || :
    [ -z "$1" ] || wait "$1" 2>/dev/null || :
}

hooks='' holder='' subscriber='' taker='' folder=''
finish() {
    trap - EXIT INT TERM
    end "$hooks"
    # Said by hand, as a client that leaves in order has no will.
    [ -z "${bridge-}" ] || printf offline | publish "$bridge" 2>/dev/null || :
    end "$holder"
    end "$subscriber"
    end "$taker"
    [ -z "$folder" ] || rm -rf "$folder"
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

until status=$("$dsn" --json status 2>/dev/null); do
    once "no node answers; it is waited for"
    pause
done
id=$(printf '%s\n' "$status" | sed 's/.*"node_id":"\([^"]*\)".*/\1/')
own=$(encode "$id")
bridge=$base/bridge/$own
export MQTT_BRIDGE="$bridge" MQTT_HOST="$host" MQTT_PORT="$port" MQTT_BASE="$base" MQTT_DISCOVERY="$discovery"
folder=$(mktemp -d)
mkfifo "$folder/from-mqtt"

# A connection that does nothing but hold the will: one that hears commands may be flooded.
hold() {
    mosquitto_sub -h "$host" -p "$port" --will-topic "$bridge" --will-payload offline --will-retain --will-qos 1 \
        -t "$bridge" >/dev/null 2>&1 &
    holder=$!
}

# The broker sends nothing that is larger: a topic and its payload.
subscribe() {
    end "$taker"
    mosquitto_sub -V mqttv5 -h "$host" -p "$port" -D connect maximum-packet-size $((bytes_max + 2048)) -q 1 \
        -t "$base/set/$own/#" -F '%x %t' >"$folder/from-mqtt" 2>/dev/null &
    subscriber=$!
    take <"$folder/from-mqtt" &
    taker=$!
}

looks=0
while :; do
    if ! "$dsn" status >/dev/null 2>&1; then
        once "the node does not answer; it is waited for"
        printf offline | publish "$bridge" 2>/dev/null || :
    else
        runs "$holder" || hold
        [ -z "$prefix" ] || runs "$subscriber" || subscribe
        # A broker that was started anew, or that took the connection for dead, does not say online.
        seen=$(mosquitto_sub -h "$host" -p "$port" -t "$bridge" -C 1 -W 3 2>/dev/null) || seen=
        if [ "$seen" != online ] || ! runs "$hooks"; then
            end "$hooks"
            hooks=''
            if why=$(printf online | publish "$bridge" 2>&1) && printf online | publish "$base/status/$own"; then
                once "all that is there goes to $host, port $port"
                RUST_LOG=warn "$dsn" on --initial --retry 3 --timeout 20s -- sh "$0" --hook &
                hooks=$!
                looks=0
            else
                once "the broker at $host, port $port, does not take it, and is waited for: $why"
            fi
        fi
        looks=$((looks + 1))
        # Not at once: a node that was just started does not know all others yet.
        [ $((looks % 240)) != 2 ] || sweep
    fi
    pause
done
