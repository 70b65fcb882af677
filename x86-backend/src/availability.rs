//! Whether a processor has AMD-V or VT-x and its firmware lets us use it: pure
//! decisions on CPUID and the registers that firmware locks.

/// What forbids the use of a processor's virtualisation, for the user.
pub type Obstacle = &'static str;

/// What is to be done before virtualisation is turned on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Open,
    /// The register that holds the permission takes this value, since firmware left it unlocked.
    Write(u64),
}

/// What AMD-V is told from (APM 15.4).
#[derive(Debug, Clone, Copy)]
pub struct Svm {
    /// CPUID 8000_0001h ECX; 0 if the leaf does not exist.
    pub extended_ecx: u32,
    /// CPUID 8000_000Ah EDX; 0 if the leaf does not exist.
    pub features_edx: u32,
}

/// CPUID 8000_0001h ECX: AMD-V.
const CPUID_SVM: u32 = 1 << 2;
/// CPUID 8000_000Ah EDX: nested paging.
const CPUID_NESTED_PAGING: u32 = 1 << 0;
/// CPUID 8000_000Ah EDX: a key unlocks [`VM_CR_SVMDIS`].
const CPUID_SVM_LOCK: u32 = 1 << 2;
/// VM_CR: bit 4 is read-only.
const VM_CR_LOCK: u64 = 1 << 3;
/// VM_CR: EFER.SVME cannot be set.
const VM_CR_SVMDIS: u64 = 1 << 4;

impl Svm {
    /// Whether the processor has AMD-V as guests need it; only then VM_CR exists. `None` if it has
    /// no AMD-V at all.
    ///
    /// # Errors
    /// What it lacks.
    pub const fn present(self) -> Option<Result<(), Obstacle>> {
        if self.extended_ecx & CPUID_SVM == 0 {
            return None;
        }
        if self.features_edx & CPUID_NESTED_PAGING == 0 {
            return Some(Err("AMD-V without nested paging (CPUID 8000_000Ah EDX bit 0 is 0)"));
        }
        Some(Ok(()))
    }

    /// What VM_CR (MSR C001_0114h) with the value `control` allows.
    ///
    /// # Errors
    /// The bit that forbids AMD-V.
    pub const fn access(self, control: u64) -> Result<Access, Obstacle> {
        if control & VM_CR_SVMDIS == 0 {
            return Ok(Access::Open);
        }
        if control & VM_CR_LOCK == 0 {
            return Ok(Access::Write(control & !VM_CR_SVMDIS));
        }
        Err(if self.features_edx & CPUID_SVM_LOCK == 0 {
            "AMD-V is disabled by the firmware (VM_CR, MSR C001_0114h: bit 4, SVMDIS, is 1 and bit 3, LOCK, is 1); \
             enable SVM in the firmware's set-up"
        } else {
            "AMD-V is disabled by the firmware with a key (VM_CR, MSR C001_0114h: bit 4, SVMDIS, is 1 and bit 3, LOCK, is 1); \
             enable SVM in the firmware's set-up"
        })
    }
}

/// CPUID leaf 1 ECX: VT-x.
const CPUID_VMX: u32 = 1 << 5;
/// IA32_FEATURE_CONTROL: the register is read-only.
const FEATURE_CONTROL_LOCK: u64 = 1 << 0;
/// IA32_FEATURE_CONTROL: VMXON is allowed in SMX operation.
const FEATURE_CONTROL_VMX_IN_SMX: u64 = 1 << 1;
/// IA32_FEATURE_CONTROL: VMXON is allowed outside SMX operation.
const FEATURE_CONTROL_VMX: u64 = 1 << 2;

/// Whether a processor with this ECX of CPUID leaf 1 has VT-x.
pub const fn has_vmx(ecx: u32) -> bool {
    ecx & CPUID_VMX != 0
}

/// What IA32_FEATURE_CONTROL (MSR 3Ah) with the value `control` allows (SDM 24.7).
///
/// # Errors
/// The bit that forbids VT-x.
pub const fn vmx_access(control: u64) -> Result<Access, Obstacle> {
    if control & FEATURE_CONTROL_LOCK == 0 {
        return Ok(Access::Write(control | FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMX));
    }
    if control & FEATURE_CONTROL_VMX != 0 {
        return Ok(Access::Open);
    }
    Err(if control & FEATURE_CONTROL_VMX_IN_SMX == 0 {
        "VT-x is disabled by the firmware (IA32_FEATURE_CONTROL, MSR 3Ah: bit 2, VMX outside SMX, is 0 and bit 0, lock, is 1); \
         enable VT-x in the firmware's set-up"
    } else {
        "VT-x is allowed by the firmware in SMX operation only (IA32_FEATURE_CONTROL, MSR 3Ah: bit 2, VMX outside SMX, \
         is 0, bit 1 is 1 and bit 0, lock, is 1); enable VT-x, or turn off trusted execution, in the firmware's set-up"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPABLE: Svm = Svm { extended_ecx: CPUID_SVM, features_edx: CPUID_NESTED_PAGING };

    #[test]
    fn amd_v_is_absent_or_lacks_nested_paging_by_name() {
        let cases = [
            (0, 0, None),
            (0, u32::MAX, None),
            (!CPUID_SVM, u32::MAX, None),
            (CPUID_SVM, 0, Some("CPUID 8000_000Ah EDX bit 0")),
            (CPUID_SVM, !CPUID_NESTED_PAGING, Some("CPUID 8000_000Ah EDX bit 0")),
            (u32::MAX, CPUID_NESTED_PAGING, Some("")),
        ];
        for (extended_ecx, features_edx, expected) in cases {
            let present = Svm { extended_ecx, features_edx }.present();
            match (present, expected) {
                (None, None) => {}
                (Some(Ok(())), Some("")) => {}
                (Some(Err(obstacle)), Some(bit)) if !bit.is_empty() => {
                    assert!(obstacle.contains(bit), "{obstacle}");
                }
                _ => panic!("{extended_ecx:#x} {features_edx:#x}: {present:?}"),
            }
        }
    }

    #[test]
    fn every_state_of_vm_cr_is_used_opened_or_refused_by_the_bit() {
        for others in [0, 0b111] {
            for lock in [0, VM_CR_LOCK] {
                assert_eq!(CAPABLE.access(others | lock), Ok(Access::Open));
            }
            assert_eq!(CAPABLE.access(others | VM_CR_SVMDIS), Ok(Access::Write(others)));
            let locked = others | VM_CR_SVMDIS | VM_CR_LOCK;
            for (features, by_key) in [(0, false), (CPUID_SVM_LOCK, true)] {
                let svm = Svm { features_edx: CPUID_NESTED_PAGING | features, ..CAPABLE };
                let obstacle = svm.access(locked).unwrap_err();
                for part in ["MSR C001_0114h", "bit 4, SVMDIS, is 1", "bit 3, LOCK, is 1"] {
                    assert!(obstacle.contains(part), "{obstacle}");
                }
                assert_eq!(obstacle.contains("key"), by_key, "{obstacle}");
            }
        }
    }

    #[test]
    fn every_state_of_the_feature_control_is_used_opened_or_refused_by_the_bit() {
        let (lock, smx, outside) =
            (FEATURE_CONTROL_LOCK, FEATURE_CONTROL_VMX_IN_SMX, FEATURE_CONTROL_VMX);
        // Bit 20 belongs to another feature and stays as it is.
        for others in [0, 1 << 20] {
            for smx in [0, smx] {
                for outside_bit in [0, outside] {
                    let control = others | smx | outside_bit;
                    assert_eq!(
                        vmx_access(control),
                        Ok(Access::Write(others | smx | outside | lock)),
                        "{control:#x}"
                    );
                }
                assert_eq!(vmx_access(others | lock | smx | outside), Ok(Access::Open));
                let obstacle = vmx_access(others | lock | smx).unwrap_err();
                for part in ["MSR 3Ah", "bit 2, VMX outside SMX", "bit 0, lock, is 1"] {
                    assert!(obstacle.contains(part), "{obstacle}");
                }
                assert_eq!(obstacle.contains("SMX operation only"), smx != 0, "{obstacle}");
            }
        }
    }

    #[test]
    fn vt_x_is_told_from_its_bit() {
        assert!(has_vmx(1 << 5) && !has_vmx(!(1 << 5)));
    }
}
