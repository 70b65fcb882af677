//! The names of the registers and instructions that a guest can meet, and that a report may have to name.

use super::Encoding;

/// Declares a constant for each register, and the table of their names.
macro_rules! registers {
    ($($name:ident = $op0:literal $op1:literal $crn:literal $crm:literal $op2:literal;)*) => {
        #[allow(non_upper_case_globals, reason = "the names are those of the Arm ARM")]
        impl Encoding {
            $(
                #[doc = concat!("`", stringify!($name), "`.")]
                pub const $name: Self = Self::new($op0, $op1, $crn, $crm, $op2);
            )*
        }

        /// Encodings and names, in ascending order.
        const NAMES: &[(Encoding, &str)] = &[$((Encoding::$name, stringify!($name))),*];
    };
}

registers! {
    IC_IALLUIS = 1 0 7 1 0;
    IC_IALLU = 1 0 7 5 0;
    DC_IVAC = 1 0 7 6 1;
    DC_ISW = 1 0 7 6 2;
    DC_IGSW = 1 0 7 6 4;
    DC_IGDSW = 1 0 7 6 6;
    AT_S1E1R = 1 0 7 8 0;
    AT_S1E1W = 1 0 7 8 1;
    AT_S1E0R = 1 0 7 8 2;
    AT_S1E0W = 1 0 7 8 3;
    AT_S1E1RP = 1 0 7 9 0;
    AT_S1E1WP = 1 0 7 9 1;
    DC_CSW = 1 0 7 10 2;
    DC_CGSW = 1 0 7 10 4;
    DC_CGDSW = 1 0 7 10 6;
    DC_CISW = 1 0 7 14 2;
    DC_CIGSW = 1 0 7 14 4;
    DC_CIGDSW = 1 0 7 14 6;
    TLBI_VMALLE1IS = 1 0 8 3 0;
    TLBI_VAE1IS = 1 0 8 3 1;
    TLBI_ASIDE1IS = 1 0 8 3 2;
    TLBI_VMALLE1 = 1 0 8 7 0;
    TLBI_VAE1 = 1 0 8 7 1;
    TLBI_ASIDE1 = 1 0 8 7 2;
    BRB_IALL = 1 1 7 2 4;
    BRB_INJ = 1 1 7 2 5;
    DC_ZVA = 1 3 7 4 1;
    IC_IVAU = 1 3 7 5 1;
    DC_CVAC = 1 3 7 10 1;
    DC_CVAU = 1 3 7 11 1;
    DC_CVAP = 1 3 7 12 1;
    DC_CVADP = 1 3 7 13 1;
    DC_CIVAC = 1 3 7 14 1;
    OSDTRRX_EL1 = 2 0 0 0 2;
    MDCCINT_EL1 = 2 0 0 2 0;
    MDSCR_EL1 = 2 0 0 2 2;
    OSDTRTX_EL1 = 2 0 0 3 2;
    MDSELR_EL1 = 2 0 0 4 2;
    MDSTEPOP_EL1 = 2 0 0 5 2;
    OSECCR_EL1 = 2 0 0 6 2;
    MDRAR_EL1 = 2 0 1 0 0;
    OSLAR_EL1 = 2 0 1 0 4;
    OSLSR_EL1 = 2 0 1 1 4;
    OSDLR_EL1 = 2 0 1 3 4;
    DBGPRCR_EL1 = 2 0 1 4 4;
    DBGCLAIMSET_EL1 = 2 0 7 8 6;
    DBGCLAIMCLR_EL1 = 2 0 7 9 6;
    DBGAUTHSTATUS_EL1 = 2 0 7 14 6;
    TRCPRGCTLR = 2 1 0 1 0;
    TRCSTATR = 2 1 0 3 0;
    TRCCONFIGR = 2 1 0 4 0;
    TRCIDR0 = 2 1 0 8 7;
    TRCOSLSR = 2 1 1 1 4;
    BRBCR_EL1 = 2 1 9 0 0;
    BRBFCR_EL1 = 2 1 9 0 1;
    BRBTS_EL1 = 2 1 9 0 2;
    BRBINFINJ_EL1 = 2 1 9 1 0;
    BRBSRCINJ_EL1 = 2 1 9 1 1;
    BRBTGTINJ_EL1 = 2 1 9 1 2;
    BRBIDR0_EL1 = 2 1 9 2 0;
    MDCCSR_EL0 = 2 3 0 1 0;
    DBGDTR_EL0 = 2 3 0 4 0;
    DBGDTRRX_EL0 = 2 3 0 5 0;
    MIDR_EL1 = 3 0 0 0 0;
    MPIDR_EL1 = 3 0 0 0 5;
    REVIDR_EL1 = 3 0 0 0 6;
    ID_PFR0_EL1 = 3 0 0 1 0;
    ID_PFR1_EL1 = 3 0 0 1 1;
    ID_DFR0_EL1 = 3 0 0 1 2;
    ID_AFR0_EL1 = 3 0 0 1 3;
    ID_MMFR0_EL1 = 3 0 0 1 4;
    ID_MMFR1_EL1 = 3 0 0 1 5;
    ID_MMFR2_EL1 = 3 0 0 1 6;
    ID_MMFR3_EL1 = 3 0 0 1 7;
    ID_ISAR0_EL1 = 3 0 0 2 0;
    ID_ISAR1_EL1 = 3 0 0 2 1;
    ID_ISAR2_EL1 = 3 0 0 2 2;
    ID_ISAR3_EL1 = 3 0 0 2 3;
    ID_ISAR4_EL1 = 3 0 0 2 4;
    ID_ISAR5_EL1 = 3 0 0 2 5;
    ID_MMFR4_EL1 = 3 0 0 2 6;
    ID_ISAR6_EL1 = 3 0 0 2 7;
    MVFR0_EL1 = 3 0 0 3 0;
    MVFR1_EL1 = 3 0 0 3 1;
    MVFR2_EL1 = 3 0 0 3 2;
    ID_PFR2_EL1 = 3 0 0 3 4;
    ID_DFR1_EL1 = 3 0 0 3 5;
    ID_MMFR5_EL1 = 3 0 0 3 6;
    ID_AA64PFR0_EL1 = 3 0 0 4 0;
    ID_AA64PFR1_EL1 = 3 0 0 4 1;
    ID_AA64PFR2_EL1 = 3 0 0 4 2;
    ID_AA64ZFR0_EL1 = 3 0 0 4 4;
    ID_AA64SMFR0_EL1 = 3 0 0 4 5;
    ID_AA64FPFR0_EL1 = 3 0 0 4 7;
    ID_AA64DFR0_EL1 = 3 0 0 5 0;
    ID_AA64DFR1_EL1 = 3 0 0 5 1;
    ID_AA64DFR2_EL1 = 3 0 0 5 2;
    ID_AA64AFR0_EL1 = 3 0 0 5 4;
    ID_AA64AFR1_EL1 = 3 0 0 5 5;
    ID_AA64ISAR0_EL1 = 3 0 0 6 0;
    ID_AA64ISAR1_EL1 = 3 0 0 6 1;
    ID_AA64ISAR2_EL1 = 3 0 0 6 2;
    ID_AA64ISAR3_EL1 = 3 0 0 6 3;
    ID_AA64MMFR0_EL1 = 3 0 0 7 0;
    ID_AA64MMFR1_EL1 = 3 0 0 7 1;
    ID_AA64MMFR2_EL1 = 3 0 0 7 2;
    ID_AA64MMFR3_EL1 = 3 0 0 7 3;
    ID_AA64MMFR4_EL1 = 3 0 0 7 4;
    SCTLR_EL1 = 3 0 1 0 0;
    ACTLR_EL1 = 3 0 1 0 1;
    CPACR_EL1 = 3 0 1 0 2;
    SCTLR2_EL1 = 3 0 1 0 3;
    RGSR_EL1 = 3 0 1 0 5;
    GCR_EL1 = 3 0 1 0 6;
    ZCR_EL1 = 3 0 1 2 0;
    TRFCR_EL1 = 3 0 1 2 1;
    SMPRI_EL1 = 3 0 1 2 4;
    SMCR_EL1 = 3 0 1 2 6;
    TTBR0_EL1 = 3 0 2 0 0;
    TTBR1_EL1 = 3 0 2 0 1;
    TCR_EL1 = 3 0 2 0 2;
    TCR2_EL1 = 3 0 2 0 3;
    APIAKeyLo_EL1 = 3 0 2 1 0;
    APIAKeyHi_EL1 = 3 0 2 1 1;
    APIBKeyLo_EL1 = 3 0 2 1 2;
    APIBKeyHi_EL1 = 3 0 2 1 3;
    APDAKeyLo_EL1 = 3 0 2 2 0;
    APDAKeyHi_EL1 = 3 0 2 2 1;
    APDBKeyLo_EL1 = 3 0 2 2 2;
    APDBKeyHi_EL1 = 3 0 2 2 3;
    APGAKeyLo_EL1 = 3 0 2 3 0;
    APGAKeyHi_EL1 = 3 0 2 3 1;
    GCSCR_EL1 = 3 0 2 5 0;
    GCSPR_EL1 = 3 0 2 5 1;
    GCSCRE0_EL1 = 3 0 2 5 2;
    SPSR_EL1 = 3 0 4 0 0;
    ELR_EL1 = 3 0 4 0 1;
    SP_EL0 = 3 0 4 1 0;
    ICC_PMR_EL1 = 3 0 4 6 0;
    AFSR0_EL1 = 3 0 5 1 0;
    AFSR1_EL1 = 3 0 5 1 1;
    ESR_EL1 = 3 0 5 2 0;
    ERRIDR_EL1 = 3 0 5 3 0;
    ERRSELR_EL1 = 3 0 5 3 1;
    ERXFR_EL1 = 3 0 5 4 0;
    ERXCTLR_EL1 = 3 0 5 4 1;
    ERXSTATUS_EL1 = 3 0 5 4 2;
    ERXADDR_EL1 = 3 0 5 4 3;
    ERXPFGF_EL1 = 3 0 5 4 4;
    ERXPFGCTL_EL1 = 3 0 5 4 5;
    ERXPFGCDN_EL1 = 3 0 5 4 6;
    ERXMISC0_EL1 = 3 0 5 5 0;
    ERXMISC1_EL1 = 3 0 5 5 1;
    ERXMISC2_EL1 = 3 0 5 5 2;
    ERXMISC3_EL1 = 3 0 5 5 3;
    TFSR_EL1 = 3 0 5 6 0;
    TFSRE0_EL1 = 3 0 5 6 1;
    FAR_EL1 = 3 0 6 0 0;
    PFAR_EL1 = 3 0 6 0 5;
    PAR_EL1 = 3 0 7 4 0;
    PMSCR_EL1 = 3 0 9 9 0;
    PMSNEVFR_EL1 = 3 0 9 9 1;
    PMSICR_EL1 = 3 0 9 9 2;
    PMSIRR_EL1 = 3 0 9 9 3;
    PMSFCR_EL1 = 3 0 9 9 4;
    PMSEVFR_EL1 = 3 0 9 9 5;
    PMSLATFR_EL1 = 3 0 9 9 6;
    PMSIDR_EL1 = 3 0 9 9 7;
    PMBLIMITR_EL1 = 3 0 9 10 0;
    PMBPTR_EL1 = 3 0 9 10 1;
    PMBSR_EL1 = 3 0 9 10 3;
    PMBIDR_EL1 = 3 0 9 10 7;
    TRBLIMITR_EL1 = 3 0 9 11 0;
    TRBPTR_EL1 = 3 0 9 11 1;
    TRBBASER_EL1 = 3 0 9 11 2;
    TRBSR_EL1 = 3 0 9 11 3;
    TRBMAR_EL1 = 3 0 9 11 4;
    TRBTRG_EL1 = 3 0 9 11 6;
    TRBIDR_EL1 = 3 0 9 11 7;
    PMINTENSET_EL1 = 3 0 9 14 1;
    PMINTENCLR_EL1 = 3 0 9 14 2;
    PMMIR_EL1 = 3 0 9 14 6;
    MAIR_EL1 = 3 0 10 2 0;
    MAIR2_EL1 = 3 0 10 2 1;
    PIRE0_EL1 = 3 0 10 2 2;
    PIR_EL1 = 3 0 10 2 3;
    POR_EL1 = 3 0 10 2 4;
    AMAIR_EL1 = 3 0 10 3 0;
    AMAIR2_EL1 = 3 0 10 3 1;
    LORSA_EL1 = 3 0 10 4 0;
    LOREA_EL1 = 3 0 10 4 1;
    LORN_EL1 = 3 0 10 4 2;
    LORC_EL1 = 3 0 10 4 3;
    MPAMIDR_EL1 = 3 0 10 4 4;
    LORID_EL1 = 3 0 10 4 7;
    MPAM1_EL1 = 3 0 10 5 0;
    MPAM0_EL1 = 3 0 10 5 1;
    VBAR_EL1 = 3 0 12 0 0;
    RVBAR_EL1 = 3 0 12 0 1;
    RMR_EL1 = 3 0 12 0 2;
    ISR_EL1 = 3 0 12 1 0;
    DISR_EL1 = 3 0 12 1 1;
    ICC_IAR0_EL1 = 3 0 12 8 0;
    ICC_EOIR0_EL1 = 3 0 12 8 1;
    ICC_HPPIR0_EL1 = 3 0 12 8 2;
    ICC_BPR0_EL1 = 3 0 12 8 3;
    ICC_AP0R0_EL1 = 3 0 12 8 4;
    ICC_AP0R1_EL1 = 3 0 12 8 5;
    ICC_AP0R2_EL1 = 3 0 12 8 6;
    ICC_AP0R3_EL1 = 3 0 12 8 7;
    ICC_AP1R0_EL1 = 3 0 12 9 0;
    ICC_AP1R1_EL1 = 3 0 12 9 1;
    ICC_AP1R2_EL1 = 3 0 12 9 2;
    ICC_AP1R3_EL1 = 3 0 12 9 3;
    ICC_NMIAR1_EL1 = 3 0 12 9 5;
    ICC_DIR_EL1 = 3 0 12 11 1;
    ICC_RPR_EL1 = 3 0 12 11 3;
    ICC_SGI1R_EL1 = 3 0 12 11 5;
    ICC_ASGI1R_EL1 = 3 0 12 11 6;
    ICC_SGI0R_EL1 = 3 0 12 11 7;
    ICC_IAR1_EL1 = 3 0 12 12 0;
    ICC_EOIR1_EL1 = 3 0 12 12 1;
    ICC_HPPIR1_EL1 = 3 0 12 12 2;
    ICC_BPR1_EL1 = 3 0 12 12 3;
    ICC_CTLR_EL1 = 3 0 12 12 4;
    ICC_SRE_EL1 = 3 0 12 12 5;
    ICC_IGRPEN0_EL1 = 3 0 12 12 6;
    ICC_IGRPEN1_EL1 = 3 0 12 12 7;
    CONTEXTIDR_EL1 = 3 0 13 0 1;
    RCWSMASK_EL1 = 3 0 13 0 3;
    TPIDR_EL1 = 3 0 13 0 4;
    ACCDATA_EL1 = 3 0 13 0 5;
    RCWMASK_EL1 = 3 0 13 0 6;
    SCXTNUM_EL1 = 3 0 13 0 7;
    CNTKCTL_EL1 = 3 0 14 1 0;
    CCSIDR_EL1 = 3 1 0 0 0;
    CLIDR_EL1 = 3 1 0 0 1;
    CCSIDR2_EL1 = 3 1 0 0 2;
    GMID_EL1 = 3 1 0 0 4;
    SMIDR_EL1 = 3 1 0 0 6;
    AIDR_EL1 = 3 1 0 0 7;
    CSSELR_EL1 = 3 2 0 0 0;
    CTR_EL0 = 3 3 0 0 1;
    DCZID_EL0 = 3 3 0 0 7;
    RNDR = 3 3 2 4 0;
    RNDRRS = 3 3 2 4 1;
    GCSPR_EL0 = 3 3 2 5 1;
    NZCV = 3 3 4 2 0;
    DAIF = 3 3 4 2 1;
    SVCR = 3 3 4 2 2;
    DIT = 3 3 4 2 5;
    SSBS = 3 3 4 2 6;
    TCO = 3 3 4 2 7;
    FPCR = 3 3 4 4 0;
    FPSR = 3 3 4 4 1;
    FPMR = 3 3 4 4 2;
    PMCR_EL0 = 3 3 9 12 0;
    PMCNTENSET_EL0 = 3 3 9 12 1;
    PMCNTENCLR_EL0 = 3 3 9 12 2;
    PMOVSCLR_EL0 = 3 3 9 12 3;
    PMSWINC_EL0 = 3 3 9 12 4;
    PMSELR_EL0 = 3 3 9 12 5;
    PMCEID0_EL0 = 3 3 9 12 6;
    PMCEID1_EL0 = 3 3 9 12 7;
    PMCCNTR_EL0 = 3 3 9 13 0;
    PMXEVTYPER_EL0 = 3 3 9 13 1;
    PMXEVCNTR_EL0 = 3 3 9 13 2;
    PMUSERENR_EL0 = 3 3 9 14 0;
    PMOVSSET_EL0 = 3 3 9 14 3;
    POR_EL0 = 3 3 10 2 4;
    TPIDR_EL0 = 3 3 13 0 2;
    TPIDRRO_EL0 = 3 3 13 0 3;
    TPIDR2_EL0 = 3 3 13 0 5;
    SCXTNUM_EL0 = 3 3 13 0 7;
    AMCR_EL0 = 3 3 13 2 0;
    AMCFGR_EL0 = 3 3 13 2 1;
    AMCGCR_EL0 = 3 3 13 2 2;
    AMUSERENR_EL0 = 3 3 13 2 3;
    AMCNTENCLR0_EL0 = 3 3 13 2 4;
    AMCNTENSET0_EL0 = 3 3 13 2 5;
    CNTFRQ_EL0 = 3 3 14 0 0;
    CNTPCT_EL0 = 3 3 14 0 1;
    CNTVCT_EL0 = 3 3 14 0 2;
    CNTPCTSS_EL0 = 3 3 14 0 5;
    CNTVCTSS_EL0 = 3 3 14 0 6;
    CNTP_TVAL_EL0 = 3 3 14 2 0;
    CNTP_CTL_EL0 = 3 3 14 2 1;
    CNTP_CVAL_EL0 = 3 3 14 2 2;
    CNTV_TVAL_EL0 = 3 3 14 3 0;
    CNTV_CTL_EL0 = 3 3 14 3 1;
    CNTV_CVAL_EL0 = 3 3 14 3 2;
    PMCCFILTR_EL0 = 3 3 14 15 7;
}

/// The name of `encoding`, if it has one here.
pub(super) fn find(encoding: Encoding) -> Option<&'static str> {
    let index = NAMES.binary_search_by_key(&encoding, |&(key, _)| key).ok()?;
    NAMES.get(index).map(|&(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_ascending_order_without_duplicates() {
        assert!(NAMES.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn names_are_found_by_encoding() {
        assert!(NAMES.iter().all(|&(encoding, name)| find(encoding) == Some(name)));
        assert_eq!(find(Encoding::new(3, 7, 15, 15, 7)), None);
    }
}
