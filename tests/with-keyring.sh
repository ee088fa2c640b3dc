# A fresh, unlocked gnome-keyring for one command: dbus-run-session -- bash tests/with-keyring.sh COMMAND...
export HOME="$(mktemp -d)"
export XDG_DATA_HOME="$HOME/data"
eval "$(printf test-password | gnome-keyring-daemon --unlock --components=secrets 2>/dev/null)"
"$@"
status=$?
rm -rf "$HOME"
exit $status
