//! How much memory this process may use: what its control groups say.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// The memory limit of the process's control groups, in bytes; `None` where nothing limits it.
pub fn memory_limit() -> Option<u64> {
    let groups = read_to_string("/proc/self/cgroup").unwrap_or_default();
    smallest(&groups, |file| read_to_string(file).ok())
}

/// The smallest limit of a group and all above it, by the lines of `/proc/self/cgroup` (cgroups(7)).
fn smallest(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        // Version 2 has no controllers here; of version 1, the one for memory.
        match controllers {
            "" => Some(("/sys/fs/cgroup", "memory.max", path)),
            _ if controllers.split(',').any(|name| name == "memory") => {
                Some(("/sys/fs/cgroup/memory", "memory.limit_in_bytes", path))
            }
            _ => None,
        }
    });
    let values = limits.flat_map(|(mount, file, path)| {
        let group: PathBuf = Path::new(mount).join(path.trim_start_matches('/'));
        // In a container the path can be that of the host, and what is mounted is the group itself.
        let above: Vec<PathBuf> =
            group.ancestors().take_while(|folder| folder.starts_with(mount)).map(|folder| folder.join(file)).collect();
        above.into_iter().filter_map(|file| limit(&read(&file)?))
    });
    values.min()
}

/// `max` is none, and so is what version 1 writes for it: more than any machine has.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < 1 << 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(groups: &str, files: &[(&str, &str)]) -> Option<u64> {
        smallest(groups, |file| {
            files.iter().find(|(path, _)| Path::new(path) == file).map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn the_smallest_limit_of_the_group_and_those_above_counts() {
        let two = "0::/kubepods.slice/pod1/c1\n";
        let at = |path: &str| format!("/sys/fs/cgroup{path}/memory.max");
        let (leaf, pod, root) = (at("/kubepods.slice/pod1/c1"), at("/kubepods.slice/pod1"), at(""));
        assert_eq!(of(two, &[(&leaf, "max\n"), (&pod, "536870912\n")]), Some(512 << 20));
        assert_eq!(of(two, &[(&leaf, "268435456\n"), (&pod, "536870912\n")]), Some(256 << 20));
        assert_eq!(of(two, &[(&root, "1073741824\n")]), Some(1 << 30), "a container sees its own group at the top");
        assert_eq!(of(two, &[(&leaf, "max\n")]), None);
        assert_eq!(of("", &[(&root, "1073741824\n")]), None);
        let one = "5:cpu,cpuacct:/a\n4:memory:/docker/x\n0::/\n";
        assert_eq!(
            of(one, &[("/sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "104857600\n")]),
            Some(100 << 20)
        );
        assert_eq!(of(one, &[("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")]), None);
    }
}
