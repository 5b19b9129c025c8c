// What the JVM's programs do with the kernel: files, maps, watches, children, threads, HTTP over loopback, selectors, garbage collection.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.lang.management.GarbageCollectorMXBean;
import java.lang.management.ManagementFactory;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.URL;
import java.nio.MappedByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.file.FileSystems;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.nio.file.StandardWatchEventKinds;
import java.security.SecureRandom;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

public class Probe {
    public static void main(String[] arguments) throws Exception {
        files();
        children();
        threads();
        http();
        memory();
    }

    static void files() throws Exception {
        Path path = Files.createTempFile("probe", null);
        Files.writeString(path, "hello");
        try (FileChannel channel = FileChannel.open(path, StandardOpenOption.READ, StandardOpenOption.WRITE)) {
            MappedByteBuffer mapped = channel.map(FileChannel.MapMode.READ_WRITE, 0, 4096);
            mapped.put(0, (byte) 'j');
            mapped.force();
            channel.tryLock().release();
        }
        Path moved = Files.move(path, path.resolveSibling("moved"));
        try (var watch = FileSystems.getDefault().newWatchService()) {
            Path.of("/tmp").register(watch, StandardWatchEventKinds.ENTRY_CREATE);
        }
        System.out.println("files " + new String(Files.readAllBytes(moved), 0, 5));
    }

    static void children() throws Exception {
        Process child = new ProcessBuilder("sh", "-c", "echo child; exit 3").start();
        String said = new String(child.getInputStream().readAllBytes()).trim();
        System.out.println("children " + said + " " + child.waitFor());
    }

    static void threads() throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(8);
        List<Callable<Integer>> tasks = new ArrayList<>();
        for (int number = 0; number < 8; number++) {
            int own = number;
            tasks.add(() -> own * own);
        }
        int sum = 0;
        for (Future<Integer> result : pool.invokeAll(tasks)) {
            sum += result.get();
        }
        pool.shutdown();
        System.out.println("threads " + sum);
    }

    static void http() throws Exception {
        try (ServerSocket server = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            Thread answering = new Thread(() -> {
                try (Socket client = server.accept()) {
                    BufferedReader request = new BufferedReader(new InputStreamReader(client.getInputStream()));
                    while (!request.readLine().isEmpty()) {
                    }
                    String head = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\n";
                    client.getOutputStream().write((head + "pong").getBytes());
                } catch (Exception error) {
                    throw new RuntimeException(error);
                }
            });
            answering.start();
            URL address = new URL("http://127.0.0.1:" + server.getLocalPort() + "/");
            String body = new String(address.openStream().readAllBytes());
            answering.join();
            System.out.println("http " + body);
        }
        try (Selector selector = Selector.open(); ServerSocketChannel channel = ServerSocketChannel.open()) {
            channel.bind(new InetSocketAddress("127.0.0.1", 0));
            channel.configureBlocking(false);
            channel.register(selector, SelectionKey.OP_ACCEPT);
            selector.selectNow();
        }
    }

    static void memory() {
        for (int round = 0; round < 200000; round++) {
            byte[] garbage = new byte[1000];
            garbage[0] = 1;
        }
        System.gc();
        long collections = 0;
        for (GarbageCollectorMXBean collector : ManagementFactory.getGarbageCollectorMXBeans()) {
            collections += collector.getCollectionCount();
        }
        boolean hasProcessors = Runtime.getRuntime().availableProcessors() > 0;
        System.out.println("memory " + (collections > 0) + " " + hasProcessors + " " + (new SecureRandom().nextInt(1) == 0));
    }
}
