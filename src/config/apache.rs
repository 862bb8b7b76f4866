//! RocketMQ's keys that are not settings here: which values of them can be lived with, and which files may carry them
//! without being refused.

/// What to do with a key of RocketMQ's that [`super::keys`] does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    /// Tunes or names something that does not exist here: passed over.
    NoEffect,
    /// Belongs to a part that is not there yet, without which the server is of use: passed over, and said.
    NotServed,
    /// Asks for something that is not there and that nobody may believe to have.
    Refused(&'static str),
}

/// A promise that only some values of a key ask for: the others are what is done anyway.
struct Promise {
    key: &'static str,
    /// In lower case.
    harmless: &'static [&'static str],
    why: &'static str,
}

const NO_REPLICATION: &str = "replication is not served yet; this server is a single ASYNC_MASTER";
const NO_ACCESS_CONTROL: &str = "access control is not served yet: every client that connects may do everything; \
                                 set it to false and keep the ports behind a firewall";

const PROMISES: [Promise; 22] = [
    Promise { key: "brokerRole", harmless: &["async_master"], why: NO_REPLICATION },
    Promise { key: "brokerId", harmless: &["0"], why: NO_REPLICATION },
    Promise { key: "enableDLegerCommitLog", harmless: &["false"], why: NO_REPLICATION },
    Promise { key: "enableControllerMode", harmless: &["false"], why: NO_REPLICATION },
    Promise { key: "enableSlaveActingMaster", harmless: &["false"], why: NO_REPLICATION },
    Promise { key: "duplicationEnable", harmless: &["false"], why: NO_REPLICATION },
    Promise { key: "inSyncReplicas", harmless: &["1"], why: NO_REPLICATION },
    Promise { key: "minInSyncReplicas", harmless: &["1"], why: NO_REPLICATION },
    Promise { key: "totalReplicas", harmless: &["1"], why: NO_REPLICATION },
    Promise { key: "allAckInSyncStateSet", harmless: &["false"], why: NO_REPLICATION },
    Promise { key: "aclEnable", harmless: &["false"], why: NO_ACCESS_CONTROL },
    Promise { key: "enableACL", harmless: &["false"], why: NO_ACCESS_CONTROL },
    Promise { key: "authenticationEnabled", harmless: &["false"], why: NO_ACCESS_CONTROL },
    Promise { key: "authorizationEnabled", harmless: &["false"], why: NO_ACCESS_CONTROL },
    Promise { key: "proxyMode", harmless: &["local"], why: "only LOCAL is served: the broker is in this process" },
    Promise { key: "storeType", harmless: &["default"], why: "only the default store is there" },
    Promise { key: "messageStorePlugIn", harmless: &[""], why: "there are no store plug-ins, tiered storage included" },
    Promise { key: "enableProxyProtocol", harmless: &["false"], why: "the PROXY protocol is not served yet" },
    Promise {
        key: "brokerPermission",
        harmless: &["6"],
        why: "only 6 (read and write) is there; close one topic with `ferromq topic update NAME --writable false` or \
              `--readable false`",
    },
    Promise {
        key: "traceTopicEnable",
        harmless: &["false"],
        why: "the trace topic of classic clients is not served; set it to false: clients of the RocketMQ 5 API \
              do not use it",
    },
    Promise {
        key: "readUnCommitted",
        harmless: &["false"],
        why: "nobody reads what is not yet as safe as flushDiskType says; set it to false",
    },
    Promise { key: "enableCompaction", harmless: &["true", "false"], why: "" },
];

/// Keys of parts that are not there yet: the classic protocol, the NameServer.
const NOT_SERVED: [&str; 22] = [
    "namesrvAddr",
    "rocketmqHome",
    "fetchNamesrvAddrByAddressServer",
    "fetchNameSrvAddrByDnsLookup",
    "namesrvDomain",
    "namesrvDomainSubgroup",
    "registerNameServerPeriod",
    "registerBrokerTimeoutMills",
    "forceRegister",
    "listenPort",
    "fastListenPort",
    "remotingListenPort",
    "bindAddress",
    "brokerIP2",
    "haListenPort",
    "haMasterAddress",
    "haSendHeartbeatInterval",
    "msgTraceTopicName",
    "enableLmq",
    "enableMultiDispatch",
    "metricLoggingExporterIntervalInMills",
    "metricsInDelta",
];

/// Keys that tune something which does not exist here (`MessageStoreConfig`, `BrokerConfig`, `ProxyConfig`,
/// `NettyServerConfig`), beyond those that [`NO_EFFECT_ENDINGS`] and [`NO_EFFECT_STARTS`] tell.
const NO_EFFECT: [&str; 136] = [
    "enableRemotingMetrics",
    "enableMessageStoreMetrics",
    "enablePopMetrics",
    "enableConnectionMetrics",
    "enableTransactionMetrics",
    "enableStatsMetrics",
    "enableRequestMetrics",
    "enableLagAndDlqMetrics",
    "accessMessageInMemoryHotRatio",
    "accessMessageInMemoryMaxRatio",
    "accountStatsEnable",
    "appendAckAsync",
    "appendCkAsync",
    "asyncSendEnable",
    "autoDeleteUnusedStats",
    "autoMessageVersionOnTopicLen",
    "bitMapLengthConsumeQueueExt",
    "brokerFastFailureEnable",
    "brokerTopicEnable",
    "channelNotActiveInterval",
    "checkCRCOnRecover",
    "cleanFileForciblyEnable",
    "cleanResourceInterval",
    "cleanSwapedMapInterval",
    "clusterTopicEnable",
    "commercialEnable",
    "commitCommitLogLeastPages",
    "commitCommitLogThoroughInterval",
    "commitIntervalCommitLog",
    "compressedRegister",
    "connectWhichBroker",
    "dataReadAheadEnable",
    "debugLockEnable",
    "defaultQueryMaxNum",
    "defaultReadQueueNums",
    "defaultWriteQueueNums",
    "deleteCommitLogFilesInterval",
    "deleteConsumeQueueFilesInterval",
    "deleteFileBatchMax",
    "destroyMapedFileIntervalForcibly",
    "disappearTimeAfterStart",
    "diskFallRecorded",
    "diskSpaceCleanForciblyRatio",
    "enableBatchAck",
    "enableBatchPush",
    "enableBroadcastOffsetStore",
    "enableBuildConsumeQueueConcurrently",
    "enableCalcFilterBitMap",
    "enableCleanExpiredOffset",
    "enableConsumeQueueExt",
    "enableControllerInNamesrv",
    "enableCreateSysGroup",
    "enableDetailStat",
    "enableGrpcEpoll",
    "enableMixedMessageType",
    "enablePopBatchAck",
    "enablePopBufferMerge",
    "enablePopLog",
    "enablePopMessageThreshold",
    "enableRegisterProducer",
    "enableRetryTopicV2",
    "enableRunningFlagsInFlush",
    "enableScheduleAsyncDeliver",
    "enableScheduleMessageStats",
    "enableSingleTopicRegister",
    "enableSplitRegistration",
    "enabledAppendPropCRC",
    "expectConsumerNumUseFilter",
    "fastFailIfNoBufferInStorePool",
    "filterDataCleanTimeSpan",
    "filterServerNums",
    "filterSupportRetry",
    "flushCommitLogLeastPages",
    "flushCommitLogThoroughInterval",
    "flushCommitLogTimed",
    "flushConsumeQueueLeastPages",
    "flushConsumeQueueThoroughInterval",
    "flushConsumerOffsetHistoryInterval",
    "flushDelayOffsetInterval",
    "flushIntervalConsumeQueue",
    "flushLeastPagesWhenWarmMapedFile",
    "forceVerifyPropCRC",
    "forwardTimeout",
    "haHousekeepingInterval",
    "haSlaveFallbehindMax",
    "haTransferBatchSize",
    "highSpeedMode",
    "longPollingEnable",
    "mapperFileSizeBatchConsumeQueue",
    "mappedFileSizeConsumeQueueExt",
    "mappedFileSizeTimerLog",
    "maxAsyncPutMessageRequests",
    "maxErrorRateOfBloomFilter",
    "maxFilterMessageSize",
    "maxMsgsNumBatch",
    "maxStatsIdleTimeInMinutes",
    "maxTopicLength",
    "maxTransferBytesOnMessageInDisk",
    "maxTransferBytesOnMessageInMemory",
    "maxTransferCountOnMessageInDisk",
    "maxTransferCountOnMessageInMemory",
    "messageIndexSafe",
    "notifyConsumerIdsChangedEnable",
    "offsetCheckInSlave",
    "osPageCacheBusyTimeOutMills",
    "putConsumeQueueDataByFileChannel",
    "putMsgIndexHightWater",
    "redeleteHangedFileInterval",
    "regionId",
    "rejectPullConsumerEnable",
    "shortPollingTimeMills",
    "slaveReadEnable",
    "startAcceptSendRequestTimeStamp",
    "storePathAbortFile",
    "storePathConsumeQueue",
    "storePathIndex",
    "storeCheckpoint",
    "timerWheelEnable",
    "timerPrecisionMs",
    "timerFlushIntervalMs",
    "timerProgressLogIntervalMs",
    "timerCongestNumEachSlot",
    "timerEnableRetryUntilSuccess",
    "timerSkipUnknownError",
    "timerStopEnqueue",
    "timerStopDequeue",
    "timerWarmEnable",
    "timerEnableDisruptor",
    "timerEnableCheckMetrics",
    "timerCheckMetricsWhen",
    "timerMetricSmallThreshold",
    "timerInterceptDelayLevel",
    "traceOn",
    "useEpollNativeSelector",
    "useReentrantLockWhenPutMessage",
    "warmMapedFileEnable",
];

const NO_EFFECT_ENDINGS: [&str; 12] = [
    "ThreadPoolNums",
    "ThreadPoolNum",
    "ThreadPoolQueueCapacity",
    "ThreadQueueCapacity",
    "ThreadNums",
    "ThreadNum",
    "TimeMillsInQueue",
    "WaitTimeMillsInQueue",
    "SemaphoreValue",
    "LoopNum",
    "SelectorThreads",
    "WorkerThreads",
];

const NO_EFFECT_STARTS: [&str; 9] = [
    "transientStorePool",
    "popRevive",
    "popCk",
    "revive",
    "tieredStore",
    "compaction",
    "serverSocket",
    "serverChannel",
    "rocksdb",
];

/// What is known of a key; `None` for one that RocketMQ does not have, or that is unknown here.
pub fn look_up(key: &str, value: &str) -> Option<Known> {
    if let Some(promise) = PROMISES.iter().find(|p| p.key == key) {
        let value = value.trim().to_ascii_lowercase();
        let harmless = promise.harmless.contains(&value.as_str());
        return Some(if harmless { Known::NoEffect } else { Known::Refused(promise.why) });
    }
    if NOT_SERVED.contains(&key) {
        return Some(Known::NotServed);
    }
    let no_effect = NO_EFFECT.contains(&key)
        || NO_EFFECT_ENDINGS.iter().any(|e| key.ends_with(e))
        || NO_EFFECT_STARTS.iter().any(|s| key.starts_with(s));
    no_effect.then_some(Known::NoEffect)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys;

    #[test]
    fn a_promise_that_cannot_be_kept_is_refused_and_its_harmless_value_is_not() {
        assert_eq!(look_up("brokerRole", "ASYNC_MASTER"), Some(Known::NoEffect));
        assert_eq!(look_up("brokerRole", "SLAVE"), Some(Known::Refused(NO_REPLICATION)));
        assert_eq!(look_up("brokerRole", "SYNC_MASTER"), Some(Known::Refused(NO_REPLICATION)));
        assert_eq!(look_up("aclEnable", "true"), Some(Known::Refused(NO_ACCESS_CONTROL)));
        for (key, kept, refused) in [
            ("brokerPermission", "6", "4"),
            ("traceTopicEnable", "false", "true"),
            ("readUnCommitted", "false", "true"),
        ] {
            assert_eq!(look_up(key, kept), Some(Known::NoEffect), "{key}");
            assert!(matches!(look_up(key, refused), Some(Known::Refused(_))), "{key}");
        }
    }

    #[test]
    fn tuning_of_java_is_passed_over_and_a_slip_is_not() {
        assert_eq!(look_up("sendMessageThreadPoolNums", "16"), Some(Known::NoEffect));
        assert_eq!(look_up("namesrvAddr", "127.0.0.1:9876"), Some(Known::NotServed));
        assert_eq!(look_up("flushDiskTyp", "SYNC_FLUSH"), None);
    }

    #[test]
    fn no_setting_of_ours_is_passed_over() {
        for key in keys::all() {
            let elsewhere = NOT_SERVED.contains(&key.name)
                || NO_EFFECT.contains(&key.name)
                || PROMISES.iter().any(|p| p.key == key.name);
            assert!(!elsewhere, "{} is in two tables", key.name);
        }
    }
}
