#!/usr/bin/env bash
# Makes the bundled speech: en.ogg and es.ogg, 48 kHz mono Ogg Opus at 32 kb/s in 20 ms frames.
#
#   relayd/assets/make.sh            writes beside this script
#   relayd/assets/make.sh --keep-wav leaves en.wav and es.wav (16-bit mono 48 kHz) there as well
#
# Needs espeak-ng, sox and opusenc. The Ogg files are committed; run this only to change the text.
set -euo pipefail
cd "$(dirname "$0")"

en="Welcome to the relay. You are listening to a recorded voice, carried as live audio.
One person speaks, and everybody who opened this page hears it within a fraction of a second.
You may leave, and come back, or choose another language, whenever you like.
In a moment, this message begins again."

es="Bienvenidos al repetidor. Está escuchando una voz grabada, transmitida como audio en directo.
Una persona habla, y todos los que abrieron esta página la oyen en una fracción de segundo.
Puede salir, y volver, o elegir otro idioma, cuando quiera.
Dentro de un momento, este mensaje comienza otra vez."

speak() { # language voice text
    local raw wav
    raw=$(mktemp --suffix=.wav) wav=$1.wav
    espeak-ng -v "$2" -s 165 -w "$raw" "$3"
    # 48 kHz mono, peaks at -3 dB, half a second of quiet at the end so that the loop breathes.
    sox -R "$raw" -b 16 -r 48000 -c 1 "$wav" norm -3 pad 0.1 0.5
    # A fixed serial keeps the file the same from run to run.
    opusenc --quiet --bitrate 32 --framesize 20 --speech --serial 1 --discard-comments \
        --title "relay demonstration ($1)" "$wav" "$1.ogg"
    rm -f "$raw"
    [ "${keep:-}" ] || rm -f "$wav"
}

[ "${1:-}" != --keep-wav ] || keep=1
speak en en-us "$en"
speak es es "$es"
