# Run by unshare as the first process of new namespaces: lay what the node needs over what this machine has, and
# become the service manager. TREE holds what was installed, BASE, VENV and CODE are what runs, LOG
# is where it writes.
set -e
mount -t tmpfs tmpfs /run
cp -a /etc /run/etc
rm -rf /run/etc/systemd/system # nothing of this machine's is to be started
cp -a "$TREE/etc/." /run/etc
cat "$TREE/passwd" >>/run/etc/passwd
cat "$TREE/group" >>/run/etc/group
mount --bind /run/etc /etc
mount -t tmpfs -o mode=755 tmpfs /srv
mkdir /srv/venv /srv/code
mount --bind "$VENV" /srv/venv
mount --bind "$CODE" /srv/code
touch /srv/node.log
mount --bind "$LOG" /srv/node.log
mount -t tmpfs -o mode=755 tmpfs /var/lib
case "$BASE" in
/usr*) ;;
*) # a Python of somebody's own may lie where nobody else may look
  mkdir /run/base
  mount --bind "$BASE" /run/base
  mount -t tmpfs -o mode=755 tmpfs "/$(echo "$BASE" | cut -d/ -f2)"
  mkdir -p "$BASE"
  mount --bind /run/base "$BASE"
  ;;
esac
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --make-rshared / # as at a real start: what is mounted for a unit (its credentials) is to be seen
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=other SYSTEMD_UNIT_PATH=/etc/systemd/system \
  SYSTEMD_LOG_TARGET=console /lib/systemd/systemd --system --unit=pobox.target
