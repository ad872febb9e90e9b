//! Real folders: a ConfigMap's swapped links, edits in place, checkouts, what is no policy.

use std::os::unix::fs::symlink;

use super::*;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tillgate-dir-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn looker(&self, allow_unsigned: bool) -> Looker {
        Looker::new(self.0.clone(), allow_unsigned)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The text of the one file, or nothing new.
fn news(looker: &mut Looker) -> Option<String> {
    match looker.ask(()).expect("it can be read") {
        Fetched::Same { .. } => None,
        Fetched::Bundle { archive, .. } => {
            looker.given.settle();
            let text = archive.files.values().next().expect("a file").clone();
            Some(String::from_utf8(text).unwrap())
        }
    }
}

#[test]
fn a_config_map_swaps_a_link_and_an_edit_in_place_counts_too() {
    let folder = Folder::new("map");
    folder.write("..2026_1/policy.yaml", "one");
    symlink("..2026_1", folder.0.join("..data")).unwrap();
    symlink("..data/policy.yaml", folder.0.join("policy.yaml")).unwrap();
    let mut looker = folder.looker(true);
    assert_eq!(news(&mut looker).as_deref(), Some("one"));
    assert_eq!(news(&mut looker), None, "the same is no news");

    folder.write("..2026_2/policy.yaml", "two");
    symlink("..2026_2", folder.0.join("..data_tmp")).unwrap();
    fs::rename(folder.0.join("..data_tmp"), folder.0.join("..data")).unwrap();
    fs::remove_dir_all(folder.0.join("..2026_1")).unwrap();
    assert_eq!(news(&mut looker).as_deref(), Some("two"));

    folder.write("..2026_2/policy.yaml", "three");
    assert_eq!(news(&mut looker).as_deref(), Some("three"));
    assert_eq!(news(&mut looker), None);
}

#[test]
fn a_second_write_of_the_same_length_is_seen_in_the_end() {
    let folder = Folder::new("same");
    folder.write("policy.yaml", "one");
    let mut looker = folder.looker(true);
    assert_eq!(news(&mut looker).as_deref(), Some("one"));
    folder.write("policy.yaml", "two");
    // As if nothing looked different.
    looker.look = Some(look(&resolve(&folder.0)).unwrap());
    assert_eq!(news(&mut looker), None);
    looker.read_at = looker.read_at.and_then(|at| at.checked_sub(READ_EVERY));
    assert_eq!(news(&mut looker).as_deref(), Some("two"));
}

#[test]
fn a_checkout_is_read_without_what_is_hidden_or_no_policy() {
    let folder = Folder::new("checkout");
    folder.write(".git/config", "x");
    folder.write("README.md", "x");
    folder.write("stores/a.yaml", "kind");
    folder.write("base/b.yml", "kind");
    let Fetched::Bundle { archive, proof, .. } = folder.looker(true).ask(()).unwrap() else {
        panic!("there is news")
    };
    let names: Vec<_> = archive.files.keys().map(String::as_str).collect();
    assert_eq!((names, proof), (vec!["base/b.yml", "stores/a.yaml"], Proof::Nobody));
}

#[test]
fn what_is_no_bundle_is_named_until_it_changes() {
    let folder = Folder::new("wrong");
    let mut looker = folder.looker(false);
    let why = |looker: &mut Looker| looker.ask(()).expect_err("nothing to take").why;
    assert!(why(&mut looker).contains("no policy"));
    folder.write("policy.yaml", "x");
    assert!(why(&mut looker).contains("allowUnsigned"));
    assert!(why(&mut looker).contains("allowUnsigned"), "also when nothing looks different");
    folder.write("bundle.tar.gz", "<html>");
    assert!(why(&mut looker).contains("a web page"));
    let nowhere = Folder(folder.0.join("gone"));
    assert!(why(&mut nowhere.looker(true)).contains("cannot read"));
}

#[test]
fn a_folder_that_is_too_much_is_refused() {
    let folder = Folder::new("big");
    folder.write("a.yaml", &"#".repeat(9 << 20));
    let why = folder.looker(true).ask(()).expect_err("too much").why;
    assert!(why.contains("8 MiB"), "{why}");
    // A link that leads back up.
    let folder = Folder::new("loop");
    symlink(".", folder.0.join("again")).unwrap();
    let why = folder.looker(true).ask(()).expect_err("endless").why;
    assert!(why.contains("folders deep"), "{why}");
}

#[test]
fn a_sub_path_mount_is_known_by_its_root() {
    let mounts = "36 35 98:0 /var/lib/kubelet/pods/1/volume-subpaths/policy/gw/0 /policy rw - \
                  ext4 x\n\
                  37 35 98:0 / /whole rw - ext4 x\n";
    assert!(is_sub_path(mounts, Path::new("/policy")));
    assert!(!is_sub_path(mounts, Path::new("/whole")));
    assert!(!is_sub_path(mounts, Path::new("/policy/x")));
}
