# Configuration that was changed stays as .rpmsave, data stays in /var/lib/xray-agent.
[ ! -d /run/systemd/system ] || systemctl daemon-reload || :
