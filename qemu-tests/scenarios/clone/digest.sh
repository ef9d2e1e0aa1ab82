# Content, owner, mode, time, links, holes, attributes of what a clone must not change.
cd /
find usr srv home opt -xdev ! -type d -printf '%p %y %m %U %G %n %s %Ts %l\n' | sort
find usr srv -xdev -type f -print0 | sort -z | xargs -0 cat | cksum
getfattr -R -d -m 'user|security.cap' srv/odd | sort
getfacl -n -R srv/odd | sort
du -k srv/odd/holes
