# Content, owner, mode, time, links, holes, attributes of what a clone must not change.
cd /
find usr srv home opt var/local -xdev ! -type d -printf '%p %y %m %U %G %n %s %Ts %l\n' | sort
find usr srv home opt var/local -type d -printf '%p %m %U %G\n' | sort
find usr srv var/local -xdev -type f -print0 | sort -z | xargs -0 cat | cksum
getfattr -R -d -m 'user|security.cap' srv/odd | sort
getfacl -n -R srv/odd | sort
du -k srv/odd/holes
