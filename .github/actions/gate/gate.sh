#!/usr/bin/env bash
# What the action runs: the gate, then, whatever it said, the comparison and the report of the records that it made.
# $PYTHON, $REFERENCE, $CONFIG, $PLUGIN as in action.yml; writes to gate-results/ and to $GITHUB_STEP_SUMMARY.
set -uo pipefail

summary=${GITHUB_STEP_SUMMARY:-/dev/stdout}
suite=smoke
options=()
entries=()
if [ -n "${CONFIG:-}" ]; then
    suite=$(basename "$CONFIG" .toml)
    options+=(--config "$CONFIG")
fi
if [ -n "${PLUGIN:-}" ]; then
    entries+=(--plugin "$PLUGIN")
fi
mkdir -p gate-results

"${PYTHON:-python}" -m bdlbench gate --reference "$REFERENCE" --results gate-results/records \
    "${options[@]}" "${entries[@]}" | tee gate-results/gate.txt
code=${PIPESTATUS[0]}
{
    echo '### bdlbench gate'
    echo '```text'
    cat gate-results/gate.txt
    echo '```'
} >>"$summary"

# A verdict of the comparison is the gate's business: here it is only shown.
if [ -d "$REFERENCE/$suite" ] && [ -d gate-results/records ]; then
    "${PYTHON:-python}" -m bdlbench compare "$REFERENCE/$suite" gate-results/records --format markdown \
        >gate-results/compare.md
    cat gate-results/compare.md >>"$summary"
    "${PYTHON:-python}" -m bdlbench report gate-results/records --out gate-results/report "${entries[@]}"
fi
exit "$code"
