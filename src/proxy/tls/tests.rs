use super::*;

fn pair(name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

struct Dir {
    dir: tempfile::TempDir,
}

impl Dir {
    fn with(pem: &(String, String)) -> Self {
        let this = Self { dir: tempfile::tempdir().unwrap() };
        this.put(pem);
        this
    }
    fn put(&self, (certificate, key): &(String, String)) {
        fs::write(self.files().certificate, certificate).unwrap();
        fs::write(self.files().key, key).unwrap();
    }
    fn files(&self) -> TlsFiles {
        TlsFiles { certificate: self.dir.path().join("tls.crt"), key: self.dir.path().join("tls.key") }
    }
}

fn served(tls: &Tls) -> Vec<u8> {
    tls.certificate.0.read().cert[0].to_vec()
}

#[test]
fn a_changed_certificate_is_taken_into_use() {
    let dir = Dir::with(&pair("localhost"));
    let tls = Tls::open(Some(&dir.files())).unwrap();
    let before = served(&tls);
    assert!(matches!(tls.reload(), Reload::Same));
    dir.put(&pair("localhost"));
    assert!(matches!(tls.reload(), Reload::Changed));
    assert_ne!(served(&tls), before);
    assert!(matches!(tls.reload(), Reload::Same));
}

#[test]
fn a_broken_new_file_keeps_the_old_certificate_and_is_told_once() {
    let old = pair("localhost");
    let dir = Dir::with(&old);
    let tls = Tls::open(Some(&dir.files())).unwrap();
    let before = served(&tls);
    let new = pair("localhost");
    for broken in [("junk".to_owned(), old.1.clone()), (new.0.clone(), old.1.clone()), (old.0.clone(), String::new())] {
        dir.put(&broken);
        assert!(matches!(tls.reload(), Reload::Broken(_)), "{broken:?}");
        assert!(matches!(tls.reload(), Reload::Same));
        assert_eq!(served(&tls), before);
    }
    fs::remove_file(dir.files().key).unwrap();
    assert!(matches!(tls.reload(), Reload::Broken(TlsError::Read { .. })));
    assert_eq!(served(&tls), before);
    dir.put(&new);
    assert!(matches!(tls.reload(), Reload::Changed));
}

#[test]
fn what_cannot_be_served_with_is_refused_at_start_with_the_file_named() {
    let (good, other) = (pair("localhost"), pair("localhost"));
    let open = |pem: &(String, String)| Tls::open(Some(&Dir::with(pem).files())).unwrap_err();
    assert!(matches!(open(&(good.0.clone(), other.1)), TlsError::Pair { .. }));
    let error = open(&("junk".into(), good.1));
    assert!(error.to_string().contains("tls.crt"), "{error}");
    let missing = TlsFiles { certificate: "/nowhere/tls.crt".into(), key: "/nowhere/tls.key".into() };
    let error = Tls::open(Some(&missing)).unwrap_err().to_string();
    assert!(error.contains("/nowhere/tls.crt") && error.contains("tlsCertPath"), "{error}");
}

#[test]
fn a_file_that_is_missing_for_long_is_told_once() {
    let dir = Dir::with(&pair("localhost"));
    let tls = Tls::open(Some(&dir.files())).unwrap();
    fs::remove_file(dir.files().key).unwrap();
    assert!(matches!(tls.reload(), Reload::Broken(_)));
    assert!(matches!(tls.reload(), Reload::Same));
}

#[test]
fn without_files_a_certificate_is_made() {
    let tls = Tls::open(None).unwrap();
    assert!(!served(&tls).is_empty());
    assert!(matches!(tls.reload(), Reload::Same));
    assert_ne!(served(&tls), served(&Tls::open(None).unwrap()));
}
