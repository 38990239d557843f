import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;

import org.opensearch.common.settings.Settings;
import org.opensearch.index.mapper.MapperExtrasPlugin;
import org.opensearch.node.InternalSettingsPreparer;
import org.opensearch.node.Node;
import org.opensearch.plugins.Plugin;
import org.opensearch.transport.Netty4Plugin;

/** A single OpenSearch node out of its Maven artifacts. Arguments: home directory, HTTP port. */
public final class OpenSearchNode {
    private static final class Embedded extends Node {
        Embedded(Settings settings, List<Class<? extends Plugin>> plugins) {
            super(
                InternalSettingsPreparer.prepareEnvironment(settings, Map.of(), null, () -> "sonde-test"),
                plugins,
                false
            );
        }
    }

    public static void main(String[] args) throws Exception {
        Settings settings = Settings.builder()
            .put("path.home", args[0])
            .put("path.data", Path.of(args[0], "data").toString())
            .put("path.logs", Path.of(args[0], "logs").toString())
            .put("cluster.name", "sonde-test")
            .put("discovery.type", "single-node")
            .put("network.host", "127.0.0.1")
            .put("http.port", args[1])
            .put("transport.port", "0")
            .put("transport.type", "netty4")
            .put("http.type", "netty4")
            .put("node.processors", 2)
            .put("cluster.routing.allocation.disk.threshold_enabled", false)
            .build();
        Node node = new Embedded(settings, List.of(Netty4Plugin.class, MapperExtrasPlugin.class));
        node.start();
        new CountDownLatch(1).await();
    }
}
