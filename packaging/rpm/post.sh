# 1: installed for the first time; 2: an upgrade.
install -d -m 0700 -o xray-agent -g xray-agent /var/lib/xray-agent
if [ "$1" -eq 1 ]; then
    chgrp xray-agent /etc/xray-agent
    chmod 0750 /etc/xray-agent
fi
if [ "$1" -eq 1 ] && command -v systemctl >/dev/null; then
    systemctl enable xray-agent.service xray-agent-kick.socket >/dev/null 2>&1 || :
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    if [ "$1" -eq 1 ]; then
        systemctl start xray-agent-kick.socket xray-agent.service || :
    else
        # The next order starts it again, from the new program.
        systemctl stop xray-agent-kick.service || :
        systemctl try-restart xray-agent-kick.socket xray-agent.service || :
    fi
fi
# Says how to go on, where nothing is configured yet.
/usr/bin/xray-agent is-configured || :
