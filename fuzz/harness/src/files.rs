//! Files that a user or a bootloader hands over.

use xtask::vmfile::VmFile;

/// A bundle, as the hypervisor opens it.
pub fn bundle(data: &[u8]) {
    if let Ok(size) = bunshin::bundle::total_size(data) {
        // What the size does not count is not looked at.
        let whole = bunshin::bundle::open(data);
        if size <= data.len() {
            assert_eq!(whole.is_ok(), bunshin::bundle::open(&data[..size]).is_ok());
        } else {
            assert!(whole.is_err());
        }
    } else {
        assert!(bunshin::bundle::open(data).is_err());
    }
}

/// A VM file, as the tool reads it.
pub fn vm_file(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = VmFile::parse(text, "fuzz.toml");
    }
}
